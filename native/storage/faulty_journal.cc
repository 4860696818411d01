#include "faulty_journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

namespace hotrow::storage {
namespace {

constexpr size_t kSectorBytes = 512;

/// The same numbers on every machine (splitmix64).
class Draws {
 public:
  Draws(uint64_t seed, uint64_t stream) : state_(seed * 0xD1342543DE82EF95u + stream) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }

 private:
  uint64_t state_;
};

/// How a set of changes fares as a whole: often all are kept or all lost, which mixing alone would hardly ever give.
enum class Fate { kKept, kLost, kMixed };

Fate draw_fate(Draws& draws) {
  constexpr Fate kFates[] = {Fate::kKept, Fate::kLost, Fate::kMixed, Fate::kMixed};
  return kFates[draws.below(4)];
}

bool kept(Fate fate, Draws& draws) { return fate == Fate::kMixed ? draws.below(2) == 0 : fate == Fate::kKept; }

[[noreturn]] void failed(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

std::string descriptor_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

std::vector<std::byte> read_all(int fd) {
  struct stat status{};
  if (fstat(fd, &status) != 0) failed("power cut: stat");
  std::vector<std::byte> content(static_cast<size_t>(status.st_size));
  for (size_t at = 0; at < content.size();) {
    const ssize_t got = pread(fd, content.data() + at, content.size() - at, static_cast<off_t>(at));
    if (got <= 0) failed("power cut: read");
    at += static_cast<size_t>(got);
  }
  return content;
}

void write_all(int fd, const std::vector<std::byte>& content) {
  if (ftruncate(fd, static_cast<off_t>(content.size())) != 0) failed("power cut: truncate");
  for (size_t at = 0; at < content.size();) {
    const ssize_t put = pwrite(fd, content.data() + at, content.size() - at, static_cast<off_t>(at));
    if (put <= 0) failed("power cut: write");
    at += static_cast<size_t>(put);
  }
}

size_t draw_size(size_t synced, size_t now, Draws& draws) {
  const auto [low, high] = std::minmax(synced, now);
  switch (draws.below(3)) {
    case 0:
      return synced;
    case 1:
      return now;
    default:
      return std::min(high, (low + draws.below(high - low + 1)) / kSectorBytes * kSectorBytes);
  }
}

/// What a file may hold that was `synced` once and is `now`.
std::vector<std::byte> after_cut(std::vector<std::byte> synced, const std::vector<std::byte>& now, Draws& draws) {
  const Fate fate = draw_fate(draws);
  if (fate == Fate::kKept) return now;
  if (fate == Fate::kLost) return synced;
  synced.resize(draw_size(synced.size(), now.size(), draws));
  const size_t common = std::min(synced.size(), now.size());
  for (size_t begin = 0; begin < common; begin += kSectorBytes) {
    const size_t size = std::min(kSectorBytes, common - begin);
    const size_t fates[] = {0, size, draws.below(size)};  // lost, kept, torn
    std::copy_n(now.data() + begin, fates[draws.below(3)], synced.data() + begin);
  }
  return synced;
}

}  // namespace

struct PowerJournal::Inode {
  int fd;
  dev_t device;
  ino_t number;
  bool is_directory;
  bool ours = false;  // created here: may hold what is not synced
  std::vector<std::byte> synced;

  Inode(int fd_, const struct stat& status)
      : fd(fd_), device(status.st_dev), number(status.st_ino), is_directory(S_ISDIR(status.st_mode)) {}
  ~Inode() { close(fd); }
  Inode(const Inode&) = delete;
  Inode& operator=(const Inode&) = delete;

  bool is_at(const std::string& path) const {
    struct stat status{};
    return stat(path.c_str(), &status) == 0 && status.st_dev == device && status.st_ino == number;
  }

  /// Whether a cut has nothing to do with its content: without names, or synced from the beginning.
  bool settled() const {
    struct stat status{};
    return !ours || (fstat(fd, &status) == 0 && status.st_nlink == 0);
  }
};

PowerJournal::InodePtr PowerJournal::at(const std::string& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) != 0) return nullptr;
  for (const InodePtr& inode : inodes_) {
    if (inode->device == status.st_dev && inode->number == status.st_ino) return inode;
  }
  const int fd = open(path.c_str(), (S_ISDIR(status.st_mode) ? O_RDONLY | O_DIRECTORY : O_RDWR) | O_CLOEXEC);
  if (fd < 0) failed("power cut: open " + path);
  inodes_.push_back(std::make_shared<Inode>(fd, status));
  return inodes_.back();
}

PowerJournal::Binding PowerJournal::binding(const std::string& path, InodePtr before, InodePtr after) {
  const std::filesystem::path whole(path);
  const std::string directory = whole.has_parent_path() ? whole.parent_path().string() : ".";
  return {at(directory), whole.filename().string(), std::move(before), std::move(after)};
}

PowerJournal::InodePtr PowerJournal::create(const std::string& path, const Change& change) {
  const std::lock_guard lock(mutex_);
  change();
  InodePtr inode = at(path);
  inode->ours = true;
  unsynced_.push_back({binding(path, nullptr, inode)});
  return inode;
}

void PowerJournal::link(const std::string& to, const Change& change) {
  const std::lock_guard lock(mutex_);
  change();
  unsynced_.push_back({binding(to, nullptr, at(to))});
}

void PowerJournal::rename(const std::string& from, const std::string& to, const Change& change) {
  const std::lock_guard lock(mutex_);
  const InodePtr moved = at(from), replaced = at(to);
  change();
  unsynced_.push_back({binding(from, moved, nullptr), binding(to, replaced, moved)});
}

void PowerJournal::remove(const std::string& path, const Change& change) {
  const std::lock_guard lock(mutex_);
  const InodePtr removed = at(path);
  change();
  unsynced_.push_back({binding(path, removed, nullptr)});
}

void PowerJournal::make_directory(const std::string& path, const Change& change) {
  const std::lock_guard lock(mutex_);
  std::vector<std::filesystem::path> made;
  for (std::filesystem::path part(path); !part.empty() && !std::filesystem::exists(part); part = part.parent_path()) {
    made.push_back(part);
  }
  change();
  for (const std::filesystem::path& part : made) {
    if (part.has_filename()) unsynced_.push_back({binding(part.string(), nullptr, at(part.string()))});
  }
}

void PowerJournal::sync(const InodePtr& inode, const Change& change) {
  std::vector<std::byte> content = read_all(inode->fd);  // before: what is written meanwhile may be lost
  change();
  const std::lock_guard lock(mutex_);
  inode->synced = std::move(content);
}

void PowerJournal::sync_directory(const std::string& path, const Change& change) {
  const std::lock_guard lock(mutex_);
  change();
  const InodePtr directory = at(path);
  std::erase_if(unsynced_, [&](const Operation& operation) {
    return std::any_of(operation.begin(), operation.end(),
                       [&](const Binding& binding) { return binding.directory == directory; });
  });
  std::erase_if(inodes_, [](const InodePtr& inode) { return inode.use_count() == 1 && inode->settled(); });
}

void PowerJournal::cut(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < inodes_.size(); ++i) {
    const InodePtr& inode = inodes_[i];
    if (!inode->ours) continue;
    const std::vector<std::byte> now = read_all(inode->fd);
    if (now == inode->synced) continue;
    Draws draws(seed, i + 1);
    write_all(inode->fd, after_cut(inode->synced, now, draws));
  }
  cut_names(seed);
  unsynced_.clear();
  inodes_.clear();
}

namespace {

/// Gives the directory that is open as `fd` another name, if it has one.
void move_directory(int fd, const std::string& path) {
  std::error_code error;
  std::filesystem::rename(std::filesystem::read_symlink(descriptor_path(fd)), path, error);
  if (error && error != std::errc::no_such_file_or_directory) {
    throw std::system_error(error, "power cut: rename to " + path);
  }
}

/// Makes `path` the file that is open as `fd`, by a link or, where it has no name left, by a copy.
void restore(int fd, const std::string& path) {
  if (linkat(AT_FDCWD, descriptor_path(fd).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) return;
  if (errno != ENOENT) failed("power cut: link " + path);
  const int copy = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (copy < 0 && errno == ENOENT) return;  // its directory is lost as well
  if (copy < 0) failed("power cut: create " + path);
  write_all(copy, read_all(fd));
  close(copy);
}

}  // namespace

void PowerJournal::cut_names(uint64_t seed) {
  Draws draws(seed, 0);
  const Fate fate = draw_fate(draws);
  std::map<std::pair<InodePtr, std::string>, InodePtr> names;
  for (const Operation& operation : unsynced_) {
    const bool happened = kept(fate, draws);
    for (const Binding& binding : operation) {
      const auto [name, first] = names.try_emplace({binding.directory, binding.name}, binding.before);
      if (happened) name->second = binding.after;
    }
  }
  for (const bool aside : {true, false}) {  // directories first leave their names, then get those that they had
    for (const auto& [name, wanted] : names) {
      const std::string path = descriptor_path(name.first->fd) + "/" + name.second;
      if (!wanted || !wanted->is_directory || wanted->is_at(path)) continue;
      if (!aside) std::filesystem::remove_all(path);
      move_directory(wanted->fd, aside ? path + ".aside" : path);
    }
  }
  for (const auto& [name, wanted] : names) {
    const std::string path = descriptor_path(name.first->fd) + "/" + name.second;
    if (wanted && wanted->is_at(path)) continue;
    std::filesystem::remove_all(path);
    if (wanted && !wanted->is_directory) restore(wanted->fd, path);
  }
}

}  // namespace hotrow::storage
