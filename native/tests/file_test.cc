// Files of the row store: many transfers at once, short ones, refused ones, and what a power cut leaves.
#include "hotrow/storage/file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "hotrow/storage/aligned_buffer.h"
#include "hotrow/storage/faulty.h"

namespace hotrow::test {
namespace {

using namespace hotrow::storage;

constexpr int64_t kPage = kDirectAlignment;

/// A directory of its own, removed at the end. Under the working directory: /tmp may be memory.
class Scratch {
 public:
  explicit Scratch(const std::string& parent = ".") {
    std::string name = parent + "/file_test.XXXXXX";
    CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

AlignedBuffer random_bytes(int64_t size, uint64_t seed) {
  AlignedBuffer buffer(size);
  Random random(seed);
  for (int64_t i = 0; i < size; i += 8) {
    const uint64_t bits = random.next();
    std::memcpy(buffer.data() + i, &bits, 8);
  }
  return buffer;
}

std::vector<Extent> whole(const AlignedBuffer& buffer) { return {{0, buffer.size(), buffer.data()}}; }

std::unique_ptr<File> make_file(FileSystem& files, const std::string& path, const AlignedBuffer& content) {
  auto file = files.create(path);
  file->write(whole(content));
  file->sync();
  return file;
}

/// The error_number of the IoError that `call` throws; 0 if it throws none.
template <typename Call>
int error_of(const Call& call) {
  try {
    call();
  } catch (const IoError& error) {
    return error.error_number;
  }
  return 0;
}

template <typename Call>
std::string format_fault_of(const Call& call) {
  try {
    call();
  } catch (const FormatFault& fault) {
    return fault.what();
  }
  return "";
}

/// Pages in random order, each read once, checked as it arrives.
void read_pages(File& file, const AlignedBuffer& content, int64_t num_reads, uint64_t seed) {
  AlignedBuffer buffer(num_reads * kPage);
  Random random(seed);
  std::vector<Extent> extents;
  for (int64_t i = 0; i < num_reads; ++i) {
    extents.push_back({random.below(content.size() / kPage) * kPage, kPage, buffer.data() + i * kPage});
  }
  std::vector<int> arrived(extents.size());
  const std::thread::id caller = std::this_thread::get_id();
  file.read(extents, [&](size_t i) {
    CHECK(std::this_thread::get_id() == caller);
    CHECK(std::memcmp(extents[i].data, content.data() + extents[i].offset, kPage) == 0, "extent %zu", i);
    ++arrived[i];
  });
  for (const int count : arrived) CHECK(count == 1);
}

void test_many_extents(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(512 * kPage, 1);
  const auto written = make_file(files, scratch / "a", content);
  CHECK(written->size() == content.size());
  CHECK(written->path() == scratch / "a");
  read_pages(*written, content, 3000, 2);
  const auto file = files.open(scratch / "a");
  read_pages(*file, content, 1, 3);
  file->read({}, nullptr);
}

/// Extents of several files in one call, and which of them an error is of.
void test_several_files(FileSystem& files) {
  const Scratch scratch;
  constexpr int64_t kPages = 100;
  std::vector<AlignedBuffer> contents;
  std::vector<std::unique_ptr<File>> opened;
  for (uint64_t number = 0; number < 5; ++number) {
    contents.push_back(random_bytes(kPages * kPage, 30 + number));
    make_file(files, scratch / std::to_string(number), contents.back());
    opened.push_back(files.open(scratch / std::to_string(number)));
  }
  const AlignedBuffer buffer(5 * kPages * kPage);
  std::vector<FileExtent> extents;
  for (int64_t i = 0; i < 5 * kPages; ++i) {  // from file to file
    const auto file = static_cast<size_t>(i % 5);
    extents.push_back({opened[file].get(), {i / 5 * kPage, kPage, buffer.data() + i * kPage}});
  }
  std::vector<int> arrived(extents.size());
  files.read(extents, [&](size_t i) {
    const std::byte* expected = contents[i % 5].data() + extents[i].extent.offset;
    CHECK(std::memcmp(extents[i].extent.data, expected, kPage) == 0, "extent %zu", i);
    ++arrived[i];
  });
  for (const int count : arrived) CHECK(count == 1);
  files.read({}, nullptr);
  extents[3].extent.offset = kPages * kPage;
  CHECK(format_fault_of([&] { files.read(extents, nullptr); }).find(scratch / "3: truncated") == 0);
}

void test_many_writes(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(300 * kPage, 4);
  const auto file = files.create(scratch / "a");
  std::vector<Extent> extents;
  for (int64_t page = 299; page >= 0; page -= 3) {
    extents.push_back({(page - 2) * kPage, 3 * kPage, content.data() + (page - 2) * kPage});
  }
  file->write(extents);
  read_pages(*file, content, 600, 5);
}

void test_beyond_4_gib(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(kPage, 6);
  const int64_t offset = (int64_t{5} << 30) + kPage;
  const auto file = files.create(scratch / "sparse");
  file->write(std::vector<Extent>{{offset, kPage, content.data()}});
  CHECK(file->size() == offset + kPage);
  const AlignedBuffer read(kPage);
  file->read(std::vector<Extent>{{offset, kPage, read.data()}}, nullptr);
  CHECK(std::memcmp(read.data(), content.data(), kPage) == 0);
}

void test_threads(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(256 * kPage, 7);
  const auto file = make_file(files, scratch / "a", content);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 10; ++i) read_pages(*file, content, 100, 100 * t + i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// Callers share what rings there are when no more can be opened.
[[maybe_unused]] void test_threads_without_descriptors(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(64 * kPage, 33);
  const auto file = make_file(files, scratch / "a", content);
  rlimit before{};
  CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
  const int next = dup(0);
  CHECK(next > 0 && close(next) == 0);
  const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  CHECK(error_of([&] { files.open(scratch / "a"); }) == EMFILE);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] { read_pages(*file, content, 400, t); });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
}

void test_truncated(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(4 * kPage, 8);
  make_file(files, scratch / "a", content);
  std::filesystem::resize_file(scratch / "a", 2 * kPage + 100);
  const auto file = files.open(scratch / "a");
  const AlignedBuffer buffer(4 * kPage);
  const std::string beyond = format_fault_of([&] { file->read(whole(buffer), nullptr); });
  CHECK(beyond.find("ends at byte 8292") != std::string::npos, "%s", beyond.c_str());
  CHECK(format_fault_of([&] { file->read(std::vector<Extent>{{3 * kPage, kPage, buffer.data()}}, nullptr); }) != "");
}

void test_refusals(FileSystem& files) {
  const Scratch scratch;
  CHECK(error_of([&] { files.open(scratch / "none"); }) == ENOENT);
  const AlignedBuffer content = random_bytes(kPage, 9);
  make_file(files, scratch / "a", content);
  CHECK(error_of([&] { files.create(scratch / "a"); }) == EEXIST);
  CHECK(error_of([&] { files.remove(scratch / "none"); }) == ENOENT);
  CHECK(error_of([&] { files.rename(scratch / "none", scratch / "b"); }) == ENOENT);
  CHECK(error_of([&] { files.list(scratch / "none"); }) == ENOENT);
  CHECK(error_of([&] { files.sync_directory(scratch / "none"); }) == ENOENT);
  CHECK(error_of([&] { files.make_directory(scratch / "a/b"); }) == ENOTDIR);
  const auto readable = files.open(scratch / "a");
  CHECK(error_of([&] { readable->write(whole(content)); }) == EBADF);
  bool misaligned = false;
  try {
    readable->read(std::vector<Extent>{{0, 0, content.data()}}, nullptr);
  } catch (const std::invalid_argument&) {
    misaligned = true;
  }
  CHECK(misaligned);
}

void test_throwing_callback(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(200 * kPage, 10);
  const auto file = make_file(files, scratch / "a", content);
  AlignedBuffer buffer(200 * kPage);
  std::vector<Extent> extents;
  for (int64_t i = 0; i < 200; ++i) extents.push_back({i * kPage, kPage, buffer.data() + i * kPage});
  int calls = 0;
  const std::string thrown = format_fault_of([&] {
    file->read(extents, [&](size_t) {
      if (++calls == 20) throw FormatFault("page 19");
    });
  });
  CHECK(thrown == "page 19");
  CHECK(calls == 20);
  std::memset(buffer.data(), 0, static_cast<size_t>(buffer.size()));  // nothing is in flight: nothing comes back
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int64_t i = 0; i < buffer.size(); ++i) CHECK(buffer.data()[i] == std::byte{0});
  read_pages(*file, content, 300, 11);
}

void test_names(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(2 * kPage, 12);
  files.make_directory(scratch / "x/y");
  files.make_directory(scratch / "x/y");
  make_file(files, scratch / "x/b", content);
  files.link(scratch / "x/b", scratch / "x/y/c");
  files.rename(scratch / "x/b", scratch / "x/a");
  CHECK(error_of([&] { files.link(scratch / "x/a", scratch / "x/y/c"); }) == EEXIST);
  CHECK((files.list(scratch / "x") == std::vector<std::string>{"a", "y"}));
  CHECK(files.exists(scratch / "x/a") && !files.exists(scratch / "x/b") && !files.exists(scratch / "x/a/z"));
  files.remove(scratch / "x/a");
  files.sync_directory(scratch / "x");
  read_pages(*files.open(scratch / "x/y/c"), content, 4, 13);
}

/// Between file systems a link is a copy, whole or not there.
void test_link_across_file_systems(FileSystem& files) {
  const std::string other = "/dev/shm";
  struct stat here{}, there{};
  if (stat(".", &here) != 0 || stat(other.c_str(), &there) != 0 || here.st_dev == there.st_dev) return;
  const Scratch scratch, far(other);
  const AlignedBuffer content = random_bytes(700 * kPage, 27);
  make_file(files, far / "a", content);
  files.link(far / "a", scratch / "b");
  CHECK((files.list(scratch.path()) == std::vector<std::string>{"b"}));
  read_pages(*files.open(scratch / "b"), content, 1000, 28);
  CHECK(error_of([&] { files.link(far / "a", scratch / "b"); }) == EEXIST);
  CHECK(error_of([&] { files.link(far / "none", scratch / "c"); }) == ENOENT);
  CHECK((files.list(scratch.path()) == std::vector<std::string>{"b"}));
}

void test_lock(FileSystem& files) {
  const Scratch scratch;
  auto lock = files.lock(scratch / "lock");
  std::string message;
  try {
    files.lock(scratch / "lock");
  } catch (const IoError& error) {
    CHECK(error.error_number == EAGAIN);
    message = error.what();
  }
  CHECK(message.find("held by this process") != std::string::npos, "%s", message.c_str());
  const pid_t child = fork();
  if (child == 0) {
    try {
      lock.reset();  // not the child's to give back
      files.lock(scratch / "lock");
    } catch (const IoError& error) {
      _exit(std::string(error.what()).find("held by process ") != std::string::npos ? 0 : 2);
    }
    _exit(1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "status %d", status);
  lock.reset();
  files.lock(scratch / "lock");
}

struct Faulty {
  Faulty(Backend backend, int depth) : files(make_faulty_files(backend, depth, plan)) {}
  void add(FaultRule rule) { plan->add(std::move(rule)); }

  const std::shared_ptr<FaultPlan> plan = std::make_shared<FaultPlan>();
  const std::shared_ptr<FileSystem> files;
};

/// A child process has neither its parent's threads nor rings of its own.
void test_fork(FileSystem& files) {
  const Scratch scratch;
  const AlignedBuffer content = random_bytes(64 * kPage, 24);
  const auto file = make_file(files, scratch / "a", content);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    read_pages(*file, content, 200, 25);
    _exit(0);
  }
  read_pages(*file, content, 200, 26);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "status %d", status);
}

void test_short_transfers(Backend backend, int depth) {
  const Scratch scratch;
  Faulty faulty(backend, depth);
  const AlignedBuffer content = random_bytes(64 * kPage, 14);
  faulty.add({"write", "a", 1, 2, FaultAction::kShort, 0, 3 * kPage + 7});
  faulty.add({"write", "a", 3, 5, FaultAction::kShort, 0, 100});  // less than a block: nothing moves
  const auto file = make_file(*faulty.files, scratch / "a", content);
  CHECK(faulty.plan->count("write", "a").calls == 8, "%ld", long(faulty.plan->count("write", "a").calls));
  faulty.add({"read", "a", 1, 5, FaultAction::kShort, 0, 700});
  faulty.add({"read", "a", 6, 3, FaultAction::kShort, 0, 9 * kPage + 700});
  const AlignedBuffer read(content.size());
  int calls = 0;
  file->read(whole(read), [&](size_t) { ++calls; });
  CHECK(calls == 1 && std::memcmp(read.data(), content.data(), static_cast<size_t>(content.size())) == 0);
  CHECK(faulty.plan->count("read", "").calls == 9);
  faulty.add({"read", "a", 10, 400, FaultAction::kShort, 0, 2000});
  read_pages(*file, content, 300, 15);
  faulty.plan->clear();
  if (file->alignment() > 1) {  // it went on at whole blocks: direct I/O was not refused, and is given up only now
    faulty.add({"read", "a", 1, 1, FaultAction::kError, EINVAL});
    read_pages(*file, content, 1, 32);
  }
  faulty.add({"read", "a", 1, -1, FaultAction::kShort, 0, 0});  // for ever: given up
  CHECK(error_of([&] { file->read(whole(read), nullptr); }) == EIO);
}

void test_interrupted(Backend backend, int depth) {
  const Scratch scratch;
  Faulty faulty(backend, depth);
  const AlignedBuffer content = random_bytes(64 * kPage, 16);
  for (const int error_number : {EINTR, EAGAIN}) {
    faulty.add({"read", "", 5, 90, FaultAction::kError, error_number});
    faulty.add({"write", "", 1, 3, FaultAction::kError, error_number});
  }
  const auto file = make_file(*faulty.files, scratch / "a", content);
  read_pages(*file, content, 200, 17);
}

/// A file system that opens files for direct I/O and then refuses it is used through the page cache.
void test_refused_direct(Backend backend, int depth) {
  const Scratch scratch;
  Faulty faulty(backend, depth);
  const AlignedBuffer content = random_bytes(8 * kPage, 29);
  const auto file = make_file(*faulty.files, scratch / "a", content);
  CHECK((file->alignment() == kDirectAlignment) == why_not_direct(scratch.path()).empty());
  CHECK(why_not_direct(scratch / "none") == "No such file or directory");
  if (file->alignment() == 1) return;
  faulty.add({"read", "a", 1, 1, FaultAction::kError, EINVAL});
  read_pages(*file, content, 20, 30);
  faulty.add({"read", "a", 1, 1, FaultAction::kError, EINVAL});
  CHECK(error_of([&] { read_pages(*file, content, 20, 31); }) == EINVAL);
}

/// An error among many: it is thrown, later extents are not begun, and nothing arrives afterwards.
void test_error_among_others(Backend backend, int depth) {
  const Scratch scratch;
  Faulty faulty(backend, depth);
  const AlignedBuffer content = random_bytes(200 * kPage, 18);
  const auto file = make_file(*faulty.files, scratch / "a", content);
  const AlignedBuffer buffer(content.size());
  std::vector<Extent> extents;
  for (int64_t i = 0; i < 200; ++i) extents.push_back({i * kPage, kPage, buffer.data() + i * kPage});
  faulty.add({"read", "a", 30, 1, FaultAction::kError, EIO});
  std::string message;
  int64_t offset = 0;
  try {
    file->read(extents, [](size_t) {});
  } catch (const IoError& error) {
    message = error.what();
    offset = error.offset;
  }
  CHECK(offset == 29 * kPage);
  CHECK(message == scratch / "a" + ": read at byte 118784 failed: Input/output error", "%s", message.c_str());
  CHECK(faulty.plan->count("read", "").calls < 30 + 2 * depth);
  std::memset(buffer.data(), 0, static_cast<size_t>(buffer.size()));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int64_t i = 0; i < buffer.size(); ++i) CHECK(buffer.data()[i] == std::byte{0});
  faulty.add({"write", "b", 3, 1, FaultAction::kError, ENOSPC});
  const auto other = faulty.files->create(scratch / "b");
  for (Extent& extent : extents) extent.data = content.data() + extent.offset;
  CHECK(error_of([&] { other->write(extents); }) == ENOSPC);
  read_pages(*file, content, 300, 19);
}

void test_flips(Backend backend, int depth) {
  const Scratch scratch;
  Faulty faulty(backend, depth);
  const AlignedBuffer content = random_bytes(8 * kPage, 20);
  const auto file = make_file(*faulty.files, scratch / "a", content);
  faulty.add({"read", "a", 2, 1, FaultAction::kFlip, 0, 0, 5 * kPage + 9, 3});
  const AlignedBuffer read(content.size());
  for (const int expected : {0, 1, 0}) {
    file->read(std::vector<Extent>{{0, kPage, read.data()}}, nullptr);  // does not hold the byte: does not count
    file->read(whole(read), nullptr);
    int different = 0;
    for (int64_t i = 0; i < content.size(); ++i) different += read.data()[i] != content.data()[i];
    CHECK(different == expected);
    const std::byte flip = read.data()[5 * kPage + 9] ^ content.data()[5 * kPage + 9];
    CHECK(flip == static_cast<std::byte>(expected << 3));
  }
}

/// Every operation can be refused, and what is refused has not happened.
void test_refused_operations(Backend backend, int depth) {
  const Scratch scratch;
  Faulty faulty(backend, depth);
  const AlignedBuffer content = random_bytes(kPage, 21);
  FileSystem& files = *faulty.files;
  const auto file = make_file(files, scratch / "a", content);
  faulty.add({"*", "", 1, -1, FaultAction::kError, ENOSPC});
  CHECK(error_of([&] { files.create(scratch / "b"); }) == ENOSPC);
  CHECK(error_of([&] { files.open(scratch / "a"); }) == ENOSPC);
  CHECK(error_of([&] { files.link(scratch / "a", scratch / "b"); }) == ENOSPC);
  CHECK(error_of([&] { files.rename(scratch / "a", scratch / "b"); }) == ENOSPC);
  CHECK(error_of([&] { files.remove(scratch / "a"); }) == ENOSPC);
  CHECK(error_of([&] { files.make_directory(scratch / "b"); }) == ENOSPC);
  CHECK(error_of([&] { files.sync_directory(scratch.path()); }) == ENOSPC);
  CHECK(error_of([&] { files.remove_directory(scratch.path()); }) == ENOSPC);
  CHECK(error_of([&] { files.list(scratch.path()); }) == ENOSPC);
  CHECK(error_of([&] { files.lock(scratch / "b"); }) == ENOSPC);
  CHECK(error_of([&] { file->sync(); }) == ENOSPC);
  CHECK(error_of([&] { file->reserve(9 * kPage); }) == ENOSPC);
  faulty.plan->clear();
  CHECK((files.list(scratch.path()) == std::vector<std::string>{"a"}));
  CHECK(faulty.plan->count("*", "").calls == 16, "%ld", long(faulty.plan->count("*", "").calls));
}

size_t files_in(const std::string& directory) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What one power cut leaves of: a synced file with later writes, a file without a name yet, a rename, a removal.
std::string after_power_cut(Backend backend, uint64_t seed) {
  const Scratch scratch;
  Faulty faulty(backend, 4);
  faulty.plan->record_writes();
  FileSystem& files = *faulty.files;
  const AlignedBuffer old = random_bytes(4 * kPage, 22), fresh = random_bytes(6 * kPage, 23);
  const auto file = make_file(files, scratch / "file", old);
  make_file(files, scratch / "renamed", old);
  make_file(files, scratch / "removed", old);
  files.sync_directory(scratch.path());
  file->write(whole(fresh));
  make_file(files, scratch / "new", fresh);
  files.link(scratch / "new", scratch / "linked");
  files.rename(scratch / "renamed", scratch / "other");
  files.remove(scratch / "removed");
  files.make_directory(scratch / "folder");
  faulty.plan->power_cut(seed);
  CHECK(error_of([&] { file->sync(); }) == EIO);
  CHECK(error_of([&] { files.create(scratch / "late"); }) == EIO);

  std::string result;
  for (const char* name : {"new", "linked", "renamed", "other", "removed", "folder"}) {
    result += std::filesystem::exists(scratch / name) ? '1' : '0';
  }
  CHECK(result[2] != result[3]);  // a rename is all or nothing
  for (const char* name : {"new", "linked", "renamed", "other", "removed"}) {
    const bool is_new = name[0] == 'n' || name[0] == 'l';
    const AlignedBuffer& expected = is_new ? fresh : old;
    if (!std::filesystem::exists(scratch / name)) continue;
    CHECK(text_of(scratch / name) ==
          std::string(reinterpret_cast<const char*>(expected.data()), static_cast<size_t>(expected.size())));
  }
  const std::string left = text_of(scratch / "file");
  CHECK(left.size() >= size_t{4 * kPage} && left.size() <= size_t{6 * kPage});
  for (size_t i = 0; i < left.size(); ++i) {
    const auto byte = static_cast<std::byte>(left[i]);
    CHECK(byte == fresh.data()[i] || byte == (i < size_t{4 * kPage} ? old.data()[i] : std::byte{0}));
  }
  return result + left;
}

void test_power_cut(Backend backend) {
  std::vector<std::string> results;
  std::vector<bool> kept(6), lost(6);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    results.push_back(after_power_cut(backend, seed));
    for (size_t i = 0; i < 6; ++i) (results.back()[i] == '1' ? kept : lost)[i] = true;
  }
  for (size_t i = 0; i < 6; ++i) CHECK(kept[i] && lost[i], "name %zu", i);
  CHECK(after_power_cut(backend, 7) == results[7]);
  std::sort(results.begin(), results.end());
  CHECK(std::unique(results.begin(), results.end()) - results.begin() > 20);
}

/// A directory that left its name, or took that of another that had left it: each is whole under a name that it had.
void test_power_cut_of_directories(Backend backend) {
  bool kept = false, lost = false;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Scratch scratch;
    Faulty faulty(backend, 4);
    faulty.plan->record_writes();
    FileSystem& files = *faulty.files;
    const AlignedBuffer old = random_bytes(kPage, 24), fresh = random_bytes(kPage, 25);
    for (const auto& [name, content] : {std::pair("live", &old), std::pair("next", &fresh)}) {
      files.make_directory(scratch / name);
      make_file(files, scratch / name + "/a", *content);
      files.sync_directory(scratch / name);
    }
    files.sync_directory(scratch.path());
    files.rename(scratch / "live", scratch / "gone");
    if (seed % 2 == 0) files.sync_directory(scratch.path());
    if (seed % 2 == 0) files.rename(scratch / "next", scratch / "live");
    faulty.plan->power_cut(seed);
    const auto text = [&](const char* name) { return text_of(scratch / name + "/a"); };
    const auto is = [](const std::string& found, const AlignedBuffer& wanted) {
      return found == std::string(reinterpret_cast<const char*>(wanted.data()), static_cast<size_t>(wanted.size()));
    };
    CHECK(is(text("live"), old) || is(text("gone"), old));
    CHECK(is(text("live"), fresh) || is(text("next"), fresh));
    if (seed % 2 == 0) CHECK(is(text("gone"), old));
    (is(text(seed % 2 == 0 ? "next" : "live"), seed % 2 == 0 ? fresh : old) ? lost : kept) = true;
    CHECK(files_in(scratch.path()) == 2);
  }
  CHECK(kept && lost);
}

void test_buffered(Backend backend) {
  const Scratch scratch;
  const auto files = make_file_system(backend, 4);
  const auto file = files->create(scratch / "a", Access::kBuffered);
  AlignedBuffer content = random_bytes(1000, 26);
  CHECK(file->alignment() == 1);
  file->reserve(1000);
  CHECK(file->size() == 1000);
  file->write(std::vector<Extent>{{3, 997, content.data() + 3}});
  file->write(std::vector<Extent>{{0, 3, content.data()}});
  file->sync();
  const AlignedBuffer read(1000);
  files->open(scratch / "a", Access::kBuffered)->read(std::vector<Extent>{{0, 1000, read.data()}}, nullptr);
  CHECK(std::memcmp(read.data(), content.data(), 1000) == 0);
  CHECK(error_of([&] { files->remove_directory(scratch.path()); }) == ENOTEMPTY);
  files->remove(scratch / "a");
  files->make_directory(scratch / "b");
  files->remove_directory(scratch / "b");
  CHECK(files->list(scratch.path()).empty());
}

/// All that was synced is there, whatever the seed.
void test_power_cut_keeps_what_is_synced(Backend backend) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Scratch scratch;
    Faulty faulty(backend, 4);
    faulty.plan->record_writes();
    const AlignedBuffer content = random_bytes(3 * kPage, seed);
    faulty.files->make_directory(scratch / "x/y");
    make_file(*faulty.files, scratch / "x/y/a", content);
    for (const char* path : {"x/y", "x", "."}) faulty.files->sync_directory(scratch / path);
    faulty.add({"write", "b", 2, 1, FaultAction::kPowerOff});
    const auto file = faulty.files->create(scratch / "x/y/b");
    file->write(whole(content));
    CHECK(error_of([&] { file->write(whole(content)); }) == EIO);
    CHECK(error_of([&] { file->sync(); }) == EIO);
    faulty.plan->power_cut(seed);
    read_pages(*make_file_system(backend, 4)->open(scratch / "x/y/a"), content, 5, seed);
  }
}

void test_backend(Backend backend, int depth) {
  const auto files = make_file_system(backend, depth);
#ifndef __SANITIZE_ADDRESS__  // UndefinedBehaviorSanitizer, built with it, needs descriptors to check pointers
  test_threads_without_descriptors(*files);
#endif
  test_many_extents(*files);
  test_several_files(*files);
  test_many_writes(*files);
  test_beyond_4_gib(*files);
  test_threads(*files);
  test_truncated(*files);
  test_refusals(*files);
  test_throwing_callback(*files);
  test_names(*files);
  test_link_across_file_systems(*files);
  test_lock(*files);
  test_fork(*files);
  test_short_transfers(backend, depth);
  test_interrupted(backend, depth);
  test_refused_direct(backend, depth);
  test_error_among_others(backend, depth);
  test_flips(backend, depth);
  test_refused_operations(backend, depth);
}

/// io_uring only where the kernel allows it; elsewhere it is refused in words, and kAuto takes threads.
std::vector<Backend> backends() {
  const bool allowed = describe(Backend::kAuto).starts_with("io_uring");
  if (allowed) return {Backend::kThreads, Backend::kUring};
  std::printf("no io_uring here: %s\n", describe(Backend::kAuto).c_str());
  CHECK(error_of([] { make_file_system(Backend::kUring, 4); }) != 0);
  return {Backend::kThreads, Backend::kAuto};
}

}  // namespace
}  // namespace hotrow::test

int main() {
  using namespace hotrow::test;
  for (const hotrow::storage::Backend backend : backends()) {
    for (const int depth : {1, 7, 64}) test_backend(backend, depth);
    test_power_cut(backend);
    test_power_cut_of_directories(backend);
    test_buffered(backend);
    test_power_cut_keeps_what_is_synced(backend);
  }
}
