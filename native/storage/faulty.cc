#include "hotrow/storage/faulty.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "faulty_plan.h"
#include "posix_files.h"

namespace hotrow::storage {
namespace {

const std::string kNoPath;

/// Between a file's transfers and their channel: refuses pieces, cuts them short, alters what they brought.
class FaultyChannel final : public Channel {
 public:
  FaultyChannel(std::unique_ptr<Channel> inner, FaultPlan::Impl& plan) : inner_(std::move(inner)), plan_(plan) {}

  void submit(std::span<const Piece> pieces) override {
    std::vector<Piece> passed;
    for (const Piece& piece : pieces) {
      Verdict verdict = plan_.judge({piece.direction == Direction::kRead ? "read" : "write", piece.file->path, kNoPath,
                                     piece.offset, piece.size});
      Piece changed = piece;
      if (piece.direction == Direction::kWrite) shorten(changed, verdict.max_bytes);
      if (verdict.error_number != 0 || changed.size == 0) {
        refused_.push_back({piece.tag, -verdict.error_number});
        continue;
      }
      passed.push_back(changed);
      in_flight_.push_back({piece, std::move(verdict)});
    }
    if (!passed.empty()) inner_->submit(passed);
  }

  void wait(std::vector<Completion>& completions) override {
    completions.clear();
    completions.swap(refused_);
    if (!completions.empty()) return;
    inner_->wait(completions);
    for (Completion& completion : completions) settle(completion);
  }

 private:
  struct Waiting {
    Piece piece;
    Verdict verdict;
  };

  /// Writes of whole blocks stay that: the file may be direct.
  static void shorten(Piece& piece, int64_t max_bytes) {
    if (max_bytes >= piece.size) return;
    const bool blocks = (piece.offset | piece.size) % kDirectAlignment == 0;
    piece.size = blocks ? max_bytes / kDirectAlignment * kDirectAlignment : max_bytes;
  }

  void settle(Completion& completion) {
    const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                    [&](const Waiting& waiting) { return waiting.piece.tag == completion.tag; });
    const Waiting waiting = std::move(*found);
    in_flight_.erase(found);
    if (waiting.piece.direction == Direction::kWrite || completion.result < 0) return;
    completion.result = std::min(completion.result, waiting.verdict.max_bytes);
    for (const auto& [byte, bit] : waiting.verdict.flips) {
      const int64_t at = byte - waiting.piece.offset;
      if (at < completion.result) waiting.piece.data[at] ^= static_cast<std::byte>(1 << bit);
    }
  }

  const std::unique_ptr<Channel> inner_;
  FaultPlan::Impl& plan_;
  std::vector<Waiting> in_flight_;
  std::vector<Completion> refused_;
};

class FaultyFile final : public File {
 public:
  FaultyFile(std::unique_ptr<File> inner, std::shared_ptr<FaultPlan> plan, PowerJournal::InodePtr inode)
      : inner_(std::move(inner)), plan_(std::move(plan)), inode_(std::move(inode)) {}

  void read(std::span<const Extent> extents, const std::function<void(size_t)>& done) override {
    inner_->read(extents, done);
  }

  void write(std::span<const Extent> extents) override {
    const std::shared_lock lock(plan_->impl().power);
    inner_->write(extents);
  }

  void sync() override {
    const std::shared_lock lock(plan_->impl().power);
    plan_->impl().check({"sync", inner_->path(), kNoPath});
    if (inode_ && plan_->impl().journal) {
      plan_->impl().journal->sync(inode_, [&] { inner_->sync(); });
    } else {
      inner_->sync();
    }
  }

  void reserve(int64_t size) override {
    const std::shared_lock lock(plan_->impl().power);
    plan_->impl().check({"reserve", inner_->path(), kNoPath});
    inner_->reserve(size);
  }

  int64_t size() override { return inner_->size(); }
  const std::string& path() const override { return inner_->path(); }
  int64_t alignment() const override { return inner_->alignment(); }
  File* inner() const { return inner_.get(); }

 private:
  const std::unique_ptr<File> inner_;
  const std::shared_ptr<FaultPlan> plan_;
  const PowerJournal::InodePtr inode_;  // of a file created here, if writes are recorded
};

class FaultyFiles final : public FileSystem {
 public:
  FaultyFiles(std::shared_ptr<FileSystem> inner, std::shared_ptr<FaultPlan> plan)
      : inner_(std::move(inner)), plan_(std::move(plan)) {}

  std::unique_ptr<File> open(const std::string& path, Access access) override {
    impl().check({"open", path, kNoPath});
    return std::make_unique<FaultyFile>(inner_->open(path, access), plan_, nullptr);
  }

  std::unique_ptr<File> create(const std::string& path, Access access) override {
    const std::shared_lock lock(impl().power);
    impl().check({"create", path, kNoPath});
    std::unique_ptr<File> file;
    PowerJournal::InodePtr inode;
    const auto change = [&] { file = inner_->create(path, access); };
    if (impl().journal) {
      inode = impl().journal->create(path, change);
    } else {
      change();
    }
    return std::make_unique<FaultyFile>(std::move(file), plan_, std::move(inode));
  }

  void read(std::span<const FileExtent> extents, const std::function<void(size_t)>& done) override {
    std::vector<FileExtent> inner;
    inner.reserve(extents.size());
    for (const auto& [file, extent] : extents) inner.push_back({static_cast<FaultyFile&>(*file).inner(), extent});
    inner_->read(inner, done);
  }

  void remove(const std::string& path) override {
    make(
        {"remove", path, kNoPath}, [&] { inner_->remove(path); },
        [&](PowerJournal& journal, const auto& change) { journal.remove(path, change); });
  }

  void remove_directory(const std::string& path) override {
    make(
        {"remove directory", path, kNoPath}, [&] { inner_->remove_directory(path); },
        [&](PowerJournal&, const auto& change) { change(); });
  }

  void rename(const std::string& from, const std::string& to) override {
    make(
        {"rename", from, to}, [&] { inner_->rename(from, to); },
        [&](PowerJournal& journal, const auto& change) { journal.rename(from, to, change); });
  }

  void link(const std::string& from, const std::string& to) override {
    make(
        {"link", from, to}, [&] { inner_->link(from, to); },
        [&](PowerJournal& journal, const auto& change) { journal.link(to, change); });
  }

  void make_directory(const std::string& path) override {
    make(
        {"make directory", path, kNoPath}, [&] { inner_->make_directory(path); },
        [&](PowerJournal& journal, const auto& change) { journal.make_directory(path, change); });
  }

  void sync_directory(const std::string& path) override {
    make(
        {"sync directory", path, kNoPath}, [&] { inner_->sync_directory(path); },
        [&](PowerJournal& journal, const auto& change) { journal.sync_directory(path, change); });
  }

  std::vector<std::string> list(const std::string& path) override {
    impl().check({"list", path, kNoPath});
    return inner_->list(path);
  }

  bool exists(const std::string& path) override {
    impl().check({"exists", path, kNoPath});
    return inner_->exists(path);
  }

  std::unique_ptr<Lock> lock(const std::string& path) override {
    impl().check({"lock", path, kNoPath});
    return inner_->lock(path);
  }

 private:
  FaultPlan::Impl& impl() const { return plan_->impl(); }

  template <typename Noted>
  void make(const Call& call, const PowerJournal::Change& change, const Noted& noted) {
    const std::shared_lock lock(impl().power);
    impl().check(call);
    if (impl().journal) {
      noted(*impl().journal, change);
    } else {
      change();
    }
  }

  const std::shared_ptr<FileSystem> inner_;
  const std::shared_ptr<FaultPlan> plan_;
};

}  // namespace

std::shared_ptr<FileSystem> make_faulty_files(Backend backend, int queue_depth, std::shared_ptr<FaultPlan> plan) {
  const auto decorate = [plan](std::unique_ptr<Channel> inner) -> std::unique_ptr<Channel> {
    return std::make_unique<FaultyChannel>(std::move(inner), plan->impl());
  };
  return std::make_shared<FaultyFiles>(make_posix_files(make_channels(backend, queue_depth), decorate), plan);
}

}  // namespace hotrow::storage
