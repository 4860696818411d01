// Files of the row store: many transfers at once, short ones, refused ones, and what a power cut leaves.
#include "hotrow/storage/file.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "hotrow/storage/aligned_buffer.h"

namespace hotrow::test {
namespace {

using namespace hotrow::storage;

constexpr int64_t kPage = kDirectAlignment;
const std::vector<Backend> kBackends = {Backend::kThreads};

/// A directory of its own, removed at the end. Under the working directory: /tmp may be memory.
class Scratch {
 public:
  Scratch() {
    std::string name = "file_test.XXXXXX";
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

void test_backend(Backend backend, int depth) {
  const auto files = make_file_system(backend, depth);
  test_many_extents(*files);
  test_many_writes(*files);
  test_beyond_4_gib(*files);
  test_threads(*files);
  test_truncated(*files);
  test_refusals(*files);
  test_throwing_callback(*files);
  test_names(*files);
  test_lock(*files);
}

}  // namespace
}  // namespace hotrow::test

int main() {
  for (const hotrow::storage::Backend backend : hotrow::test::kBackends) {
    for (const int depth : {1, 7, 64}) hotrow::test::test_backend(backend, depth);
  }
}
