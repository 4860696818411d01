// What a disk may have forgotten: the content of files as last synced, and names that are not synced yet.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace hotrow::storage {

/// Files and directories are held open, so that what is renamed or removed is still reached. Thread-safe; names change
/// one at a time, through here: each function runs `change`, which does it, and notes what it did.
class PowerJournal {
 public:
  struct Inode;
  using InodePtr = std::shared_ptr<Inode>;
  using Change = std::function<void()>;

  InodePtr create(const std::string& path, const Change& change);
  void link(const std::string& to, const Change& change);
  void rename(const std::string& from, const std::string& to, const Change& change);
  void remove(const std::string& path, const Change& change);
  void make_directory(const std::string& path, const Change& change);
  void sync(const InodePtr& inode, const Change& change);
  void sync_directory(const std::string& path, const Change& change);

  /// See FaultPlan::power_cut. Nothing may change the files meanwhile.
  void cut(uint64_t seed);

 private:
  /// What a name in a directory stood for and stands for; null: no such name.
  struct Binding {
    InodePtr directory;
    std::string name;
    InodePtr before, after;
  };
  using Operation = std::vector<Binding>;  // all of it happened, or nothing

  InodePtr at(const std::string& path);  // null if there is none
  Binding binding(const std::string& path, InodePtr before, InodePtr after);
  void cut_names(uint64_t seed);

  std::mutex mutex_;
  std::vector<InodePtr> inodes_;     // in the order in which they were met
  std::vector<Operation> unsynced_;  // in order
};

}  // namespace hotrow::storage
