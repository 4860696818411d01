#!/bin/sh
# Usage: no_shared_code.sh NM OBJECT...
# Fails if a kernel file defines a symbol that the linker may merge with another file's: the machine code of one
# instruction set could then run where only a lesser one is supported.
nm="$1"
shift
if "$nm" --defined-only "$@" | grep -E ' [WVu] '; then
  echo "kernel files must not define the symbols above; see include/hotrow/inline.h" >&2
  exit 1
fi
