// A file system for tests: calls fail, come short, return flipped bits, wait, or are lost by a power cut, as a plan
// says.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "hotrow/storage/file.h"

namespace hotrow::storage {

/// kError: the call is refused with error_number. kShort: at most num_bytes of it are moved. kFlip: after a read, `bit`
/// of the file's byte `byte` is the other one. kDelay: the call waits. kPowerOff: it and all that follow fail with EIO.
enum class FaultAction : int32_t { kError = 0, kShort = 1, kFlip = 2, kDelay = 3, kPowerOff = 4 };

/// Which calls are hit, and how. A rule counts the calls it matches from when it was added, beginning with 1; a
/// transfer counts once per piece that goes to the kernel, so a continued one counts again. A flip counts only reads of
/// its byte.
struct FaultRule {
  std::string operation;  // IoError::operation; "*" is any
  std::string path_part;  // contained in the path; for "rename" and "link" in either path
  int64_t first = 1;      // call that is hit first
  int64_t times = 1;      // calls hit from there on; -1: all
  FaultAction action = FaultAction::kError;
  int error_number = 0;
  int64_t num_bytes = 0;
  int64_t byte = 0;
  int bit = 0;
  double seconds = 0;
};

struct CallCount {
  int64_t calls = 0;
  int64_t bytes = 0;  // asked for by reads and writes
};

/// Shared by the file systems made with it and by the test that drives them. Thread-safe.
class FaultPlan {
 public:
  FaultPlan();
  ~FaultPlan();

  /// Throws std::invalid_argument for an unknown operation, and for an action that it cannot have.
  void add(FaultRule rule);
  void clear();

  /// Calls so far, refused ones included, of an operation ("*": any) on paths that contain path_part.
  CallCount count(const std::string& operation, const std::string& path_part) const;

  /// From now on remembers what power_cut needs: the synced content of every file that is created, and the names in
  /// directories that are not synced yet. Keeps contents in memory.
  void record_writes();

  /// Turns the power off (every later call fails with EIO), waits for calls in progress, then leaves the directories as
  /// a disk could after the power failed: of what was written to a file since its last sync, each 512-byte sector is
  /// kept, torn or lost, and its size is any between the two; of the creations, links, renames and removals in a
  /// directory since its last sync, each is kept or lost. The same seed and history give the same result. Files not
  /// created here, and removals of directories, count as synced. Throws std::logic_error without record_writes.
  void power_cut(uint64_t seed);

  class Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

/// Like make_file_system, with the plan between it and its users.
std::shared_ptr<FileSystem> make_faulty_files(Backend backend, int queue_depth, std::shared_ptr<FaultPlan> plan);

}  // namespace hotrow::storage
