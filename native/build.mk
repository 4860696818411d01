# Targets of the native core; the Makefile includes this file. PYTHON is an interpreter with nanobind and cmake.
PYTHON ?= python3
CMAKE ?= cmake
NATIVE_BUILD ?= build/native
NATIVE_JOBS ?= 2

# The module in place: src/hotrow/_native*.so, for working on a checkout.
.PHONY: native
native:
	$(CMAKE) -S . -B $(NATIVE_BUILD)/module -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=$$(command -v $(PYTHON)) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/src/hotrow
	$(CMAKE) --build $(NATIVE_BUILD)/module -j $(NATIVE_JOBS)

# The C++ tests, without Python.
.PHONY: native-test
native-test:
	$(CMAKE) -S native -B $(NATIVE_BUILD)/test -DCMAKE_BUILD_TYPE=Release
	$(CMAKE) --build $(NATIVE_BUILD)/test -j $(NATIVE_JOBS)
	ctest --test-dir $(NATIVE_BUILD)/test --output-on-failure

# The same under AddressSanitizer and UndefinedBehaviorSanitizer.
.PHONY: sanitize
sanitize:
	$(CMAKE) -S native -B $(NATIVE_BUILD)/sanitize -DCMAKE_BUILD_TYPE=Debug -DHOTROW_SANITIZE=ON
	$(CMAKE) --build $(NATIVE_BUILD)/sanitize -j $(NATIVE_JOBS)
	ctest --test-dir $(NATIVE_BUILD)/sanitize --output-on-failure

# The same under ThreadSanitizer. Where it does not start ("unexpected memory mapping"), the kernel's addresses are more
# random than it can bear: sysctl vm.mmap_rnd_bits=28, or setarch -R make sanitize-thread.
.PHONY: sanitize-thread
sanitize-thread:
	$(CMAKE) -S native -B $(NATIVE_BUILD)/sanitize-thread -DCMAKE_BUILD_TYPE=Debug -DHOTROW_SANITIZE_THREAD=ON
	$(CMAKE) --build $(NATIVE_BUILD)/sanitize-thread -j $(NATIVE_JOBS)
	ctest --test-dir $(NATIVE_BUILD)/sanitize-thread --output-on-failure

# The tests for 64-bit ARM, run by qemu-user. Needs g++-aarch64-linux-gnu and qemu-user, which (7.2) ends with an
# assertion of its own where a process with threads forks: the tests that do (pool, file) are left to the machine itself.
.PHONY: native-test-arm
native-test-arm:
	$(CMAKE) -S native -B $(NATIVE_BUILD)/arm -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/native/tests/aarch64.cmake
	$(CMAKE) --build $(NATIVE_BUILD)/arm -j $(NATIVE_JOBS)
	ctest --test-dir $(NATIVE_BUILD)/arm --output-on-failure -E "pool_test|file_test"

# The store killed 200 times at random instants, and checked after each (the suite does it 20 times).
.PHONY: torture
torture:
	$(CMAKE) -S native -B $(NATIVE_BUILD)/test -DCMAKE_BUILD_TYPE=Release
	$(CMAKE) --build $(NATIVE_BUILD)/test -j $(NATIVE_JOBS) --target torture
	cd $(NATIVE_BUILD)/test && tests/torture 200
