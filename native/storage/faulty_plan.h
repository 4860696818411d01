// The state of a FaultPlan, as the faulty files use it.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "faulty_journal.h"
#include "hotrow/storage/faulty.h"

namespace hotrow::storage {

/// One call, before it is made. to: second path of a rename or link.
struct Call {
  const char* operation;
  const std::string& path;
  const std::string& to;
  int64_t offset = -1;
  int64_t size = 0;
};

struct Verdict {
  int error_number = 0;
  int64_t max_bytes = std::numeric_limits<int64_t>::max();
  std::vector<std::pair<int64_t, int>> flips;  // (byte of the file, bit)
};

class FaultPlan::Impl {
 public:
  void add(FaultRule rule);
  void clear();
  CallCount count(const std::string& operation, const std::string& path_part) const;

  /// Counts the call and says how it fares; waits if it is to be delayed.
  Verdict judge(const Call& call);

  /// Throws IoError if the call is to fail.
  void check(const Call& call);

  std::atomic<bool> off{false};
  std::shared_mutex power;                // shared by calls that change the disk, while they do
  std::unique_ptr<PowerJournal> journal;  // if writes are recorded

 private:
  struct Rule : FaultRule {
    int64_t num_matched = 0;
  };

  mutable std::mutex mutex_;
  std::vector<Rule> rules_;
  std::map<std::pair<std::string, std::string>, CallCount> counts_;  // (operation, path)
};

}  // namespace hotrow::storage
