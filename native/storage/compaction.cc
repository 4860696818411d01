#include "compaction.h"

#include <algorithm>
#include <cstring>
#include <queue>
#include <utility>

namespace hotrow::storage {
namespace {

constexpr double kTriggerShare = 1.02;           // of the garbage allowed: from here on it goes
constexpr double kStopShare = 1.05;              // here writing waits for that
constexpr double kMostShare = 1.18;              // with the output of a compaction beside its victims
constexpr int64_t kLeastOutputBytes = 16 << 20;  // small logs are rewritten whole
constexpr int64_t kOutputShare = 10;             // of what is live
constexpr int64_t kLeastWindow = 32 << 10, kLargestWindow = 1 << 20;

/// Bytes of a run with these records and nothing else, within a few blocks.
int64_t packed_bytes(const TableLayout& layout, int64_t records) {
  if (records == 0) return 0;
  const PageShape shape = page_shape(layout.record_bytes);
  const auto text = static_cast<int64_t>(layout.name.size() + layout.order_id.size() + layout.record.size());
  return shape.pages_for(records) * shape.page_bytes + 2 * records + text + 192;
}

}  // namespace

/// Walks the live records of one section of a victim, window by window.
class SectionCursor {
 public:
  SectionCursor(int slot, const Run& run, const RunSection& section, const PageShape& shape, int64_t window_bytes,
                const std::string& table)
      : slot_(slot),
        run_(run),
        section_(section),
        shape_(shape),
        table_(table),
        pages_at_once_(std::max<int64_t>(1, std::max(window_bytes, kLeastWindow) / shape.page_bytes)),
        num_pages_(shape.pages_for(section.count)),
        window_(std::min(pages_at_once_, std::max<int64_t>(num_pages_, 1)) * shape.page_bytes) {}

  /// Moves to the next live record; false at the end. is_live says of the places of a page which are; read_more brings
  /// pages in, for this cursor at least.
  template <typename Filter, typename ReadMore>
  bool next(Filter&& is_live, ReadMore&& read_more) {
    ++at_;
    while (at_ >= live_.size()) {
      if (++page_ >= num_pages_) return false;
      if (page_ >= window_end_) read_more();
      check();
      live_.clear();
      at_ = 0;
      is_live(slot_, page_data(), live_);
    }
    return true;
  }

  /// Adds what is to be read next where half of the window or more is free, and takes it for read.
  void want(std::vector<FileExtent>& extents) {
    const int64_t first = std::max<int64_t>(page_, 0), kept = window_end_ - first;
    const int64_t end = std::min(first + pages_at_once_, num_pages_);
    if (end <= window_end_ || 2 * kept > pages_at_once_) return;
    const auto bytes = [this](int64_t pages) { return pages * shape_.page_bytes; };
    std::memmove(window_.data(), window_.data() + bytes(first - window_begin_), static_cast<size_t>(bytes(kept)));
    extents.push_back({run_.file.get(),
                       {section_.offset + bytes(window_end_), bytes(end - window_end_), window_.data() + bytes(kept)}});
    window_begin_ = first;
    window_end_ = end;
  }

  uint32_t place() const { return place_at(page_data(), live_[at_]); }
  const std::byte* record() const { return record_at(page_data(), shape_, live_[at_]); }

 private:
  const std::byte* page_data() const { return window_.data() + (page_ - window_begin_) * shape_.page_bytes; }

  void check() const {
    const PageId id{run_.sequence, section_.table, static_cast<uint32_t>(page_)};
    const std::string problem = check_page(page_data(), shape_, id);
    if (problem.empty()) return;
    throw FormatFault(run_.path + ": table '" + table_ + "', page " + std::to_string(page_) + ": " + problem);
  }

  const int slot_;
  const Run& run_;
  const RunSection& section_;
  const PageShape& shape_;
  const std::string& table_;
  const int64_t pages_at_once_, num_pages_;
  AlignedBuffer window_;
  int64_t page_ = -1, window_begin_ = 0, window_end_ = 0;
  std::vector<uint32_t> live_;  // positions in the page
  size_t at_ = 0;
};

/// One compaction, from the choice of victims to their end.
class Compaction {
 public:
  explicit Compaction(RowLog::Impl& log) : log_(log) {}
  Compaction(const Compaction&) = delete;
  Compaction& operator=(const Compaction&) = delete;

  /// Victims keep their tags until the end: were one to die meanwhile and its tag to pass to another run, records of
  /// the victim would be taken for live ones of that run.
  ~Compaction() {
    const std::unique_lock index(log_.index_mutex_);
    for (const auto& [slot, run] : victims_) run->held = false;
    log_.drop_dead_runs();
    log_.pending_bytes_ = 0;
  }

  bool choose(bool for_room) {
    const std::unique_lock index(log_.index_mutex_);
    const std::vector<Candidate> candidates = log_.candidates();
    const std::vector<int> slots = choose_victims(candidates, log_.limits(), for_room);
    for (const Candidate& run : candidates) {
      if (std::find(slots.begin(), slots.end(), run.slot) != slots.end()) log_.pending_bytes_ += run.live_bytes;
    }
    for (const int slot : slots) {
      victims_.emplace_back(slot, log_.runs_[static_cast<size_t>(slot)]);
      slots_.set(static_cast<size_t>(slot));
      victims_.back().second->held = true;
    }
    for (const auto& [slot, run] : victims_) {
      for (const RunSection& section : run->sections) {
        if (section.live > 0) tables_.push_back(section.table);
      }
    }
    std::sort(tables_.begin(), tables_.end());
    tables_.erase(std::unique(tables_.begin(), tables_.end()), tables_.end());
    return !victims_.empty();
  }

  void run() {
    const uint64_t sequence = log_.draw_sequence();
    RunWriter writer(*log_.options_.files, log_.run_path(sequence), sequence, log_.tables_, tables_,
                     log_.options_.writer_bytes);
    for (const uint32_t table : tables_) merge(table, writer);
    if (writer.num_records() > 0) {
      const RunPointer run = writer.finish();
      log_.install(run, writer, &slots_);
      log_.compaction_bytes_ += run->bytes;
    }
  }

 private:
  void merge(uint32_t table, RunWriter& writer) {
    // A record that the index names in its victim stays the newest copy or is superseded; it never comes back.
    const auto is_live = [&](int slot, const std::byte* page, std::vector<uint32_t>& live) {
      const std::shared_lock index(log_.index_mutex_);
      const Tags& tags = log_.tags_[table];
      for (uint32_t i = 0; i < header_of(page).count; ++i) {
        const uint32_t place = place_at(page, i);
        if (place < tags.num_rows() && tags.get(place) == slot) live.push_back(i);
      }
    };
    std::vector<SectionCursor> cursors = open_cursors(table);
    // Windows are small and victims many: what all of them want is read together.
    std::vector<FileExtent> extents;
    const auto read_more = [&] {
      extents.clear();
      for (SectionCursor& cursor : cursors) cursor.want(extents);
      log_.options_.files->read(extents, nullptr);
    };
    using Head = std::pair<uint32_t, size_t>;
    std::priority_queue<Head, std::vector<Head>, std::greater<>> heads;
    for (size_t i = 0; i < cursors.size(); ++i) {
      if (cursors[i].next(is_live, read_more)) heads.push({cursors[i].place(), i});
    }
    writer.begin_section(table);
    while (!heads.empty()) {
      const size_t i = heads.top().second;
      heads.pop();
      writer.add(cursors[i].place(), cursors[i].record());
      if (cursors[i].next(is_live, read_more)) heads.push({cursors[i].place(), i});
    }
  }

  std::vector<SectionCursor> open_cursors(uint32_t table) const {
    const int64_t share = log_.staging_.buffer_bytes() / static_cast<int64_t>(victims_.size());
    std::vector<SectionCursor> cursors;
    for (const auto& [slot, run] : victims_) {
      const RunSection* section = std::as_const(*run).section(table);
      if (section == nullptr) continue;
      cursors.emplace_back(slot, *run, *section, log_.shapes_[table], std::min(share, kLargestWindow),
                           log_.tables_[table].name);
    }
    return cursors;
  }

  RowLog::Impl& log_;
  std::vector<std::pair<int, RunPointer>> victims_;
  TagSet slots_;
  std::vector<uint32_t> tables_;
};

std::vector<Candidate> RowLog::Impl::candidates() const {
  std::vector<Candidate> runs;
  for (size_t slot = 1; slot < runs_.size(); ++slot) {
    const RunPointer& run = runs_[slot];
    if (!run || run->held) continue;
    int64_t live = 2 * kBlockBytes;
    for (const RunSection& section : run->sections) live += packed_bytes(tables_[section.table], section.live);
    runs.push_back({static_cast<int>(slot), run->sequence, run->bytes, live});
  }
  return runs;
}

/// Live bytes and a share of the garbage that may be beside them.
int64_t RowLog::Impl::with_garbage(int64_t live_bytes, double share) const {
  return live_bytes + static_cast<int64_t>(share * options_.max_garbage * static_cast<double>(live_bytes));
}

CompactionLimits RowLog::Impl::limits() const {
  int64_t live = 0, disk = 0;
  for (size_t table = 0; table < tables_.size(); ++table) live += live_rows_[table] * tables_[table].record_bytes;
  for (const RunPointer& run : runs_) disk += run ? run->bytes : 0;
  CompactionLimits limits;
  limits.disk_bytes = with_garbage(live, kTriggerShare);
  limits.output_bytes =
      std::max(std::min(live / kOutputShare, with_garbage(live, kMostShare) - disk), kLeastOutputBytes);
  return limits;
}

bool RowLog::Impl::wants_compaction() const {
  if (options_.read_only) return false;
  const std::shared_lock index(index_mutex_);
  return !choose_victims(candidates(), limits(), false).empty();
}

bool RowLog::Impl::must_compact() const {
  const LogStats now = stats();
  return now.disk_bytes > with_garbage(now.live_bytes, kStopShare) ||
         (pending_bytes_ > kLeastOutputBytes &&
          now.disk_bytes + pending_bytes_ > with_garbage(now.live_bytes, kMostShare));
}

bool RowLog::Impl::compact(bool for_room) {
  check_writable();
  reap();
  {
    const std::lock_guard compacting(compact_mutex_);
    Compaction compaction(*this);
    if (!compaction.choose(for_room)) return false;
    compaction.run();
  }
  reap_quietly();
  return true;
}

}  // namespace hotrow::storage
