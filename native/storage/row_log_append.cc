// Writing runs and pointing the index to them.
#include <algorithm>
#include <stdexcept>

#include "row_log_impl.h"

namespace hotrow::storage {
namespace {

constexpr size_t kPlacesPerHold = 1 << 16;  // tags set while readers wait

}  // namespace

void RowLog::Impl::append(std::span<const AppendSection> sections) {
  check_writable();
  std::vector<uint32_t> tables;
  for (const AppendSection& section : sections) {
    check_sorted(section.table, section.places);
    if (!tables.empty() && section.table <= tables.back()) {
      throw std::invalid_argument("sections are not in ascending order of table");
    }
    if (!section.places.empty()) tables.push_back(static_cast<uint32_t>(section.table));
  }
  append_run(tables, [&](RunWriter& writer) {
    for (const AppendSection& section : sections) {
      if (section.places.empty()) continue;
      writer.begin_section(static_cast<uint32_t>(section.table));
      const std::byte* record = section.records;
      for (const uint32_t place : section.places) {
        writer.add(place, record);
        record += tables_[static_cast<size_t>(section.table)].record_bytes;
      }
    }
  });
}

void RowLog::Impl::append(std::span<const RecordRef> records) {
  check_writable();
  std::vector<uint32_t> tables;
  for (size_t i = 0; i < records.size(); ++i) {
    const RecordRef& record = records[i];
    check_sorted(record.table, {&record.place, 1});
    const bool same = i > 0 && record.table == records[i - 1].table;
    const bool later = i > 0 && (same ? record.place > records[i - 1].place : record.table > records[i - 1].table);
    if (i > 0 && !later) throw std::invalid_argument("records are not in ascending order at " + std::to_string(i));
    if (!same) tables.push_back(record.table);
  }
  append_run(tables, [&](RunWriter& writer) {
    for (size_t i = 0; i < records.size(); ++i) {
      if (i == 0 || records[i].table != records[i - 1].table) writer.begin_section(records[i].table);
      writer.add(records[i].place, records[i].record);
    }
  });
}

void RowLog::Impl::append_run(const std::vector<uint32_t>& tables, const std::function<void(RunWriter&)>& feed) {
  if (tables.empty()) return;
  reap();
  std::unique_lock appending(append_mutex_, std::defer_lock);
  for (;;) {
    make_room();
    appending.lock();
    const std::shared_lock index(index_mutex_);
    if (num_live() < kMaxRuns - 1) break;  // the last one is for a compaction
    appending.unlock();
  }
  const uint64_t sequence = next_sequence_++;
  RunWriter writer(*options_.files, run_path(sequence), sequence, tables_, tables, options_.writer_bytes);
  feed(writer);
  RunPointer run = writer.finish();
  install(run, writer, nullptr);
  append_bytes_ += run->bytes;
  rows_appended_ += writer.num_records();
  appending.unlock();
  run.reset();
  reap_quietly();
}

void RowLog::Impl::make_room() {
  for (;;) {
    {
      const std::shared_lock index(index_mutex_);
      if (num_live() < kMaxRuns - 1) return;
    }
    compact(true);
  }
}

uint64_t RowLog::Impl::draw_sequence() {
  const std::lock_guard appending(append_mutex_);
  return next_sequence_++;
}

void RowLog::Impl::install(const RunPointer& run, const RunWriter& writer, const TagSet* only_from) {
  int slot;
  {
    const std::unique_lock index(index_mutex_);
    slot = free_slot();
    run->held = true;
    runs_[static_cast<size_t>(slot)] = run;
  }
  std::unique_lock index(index_mutex_, std::defer_lock);
  size_t held = 0;
  writer.replay([&](size_t section, std::span<const uint32_t> places) {
    if (!index.owns_lock()) index.lock();
    point_to(slot, run->sections[section], places, only_from);
    held += places.size();
    if (held < kPlacesPerHold) return;
    held = 0;
    index.unlock();
  });
  if (!index.owns_lock()) index.lock();
  run->held = false;
  drop_dead_runs();
}

void RowLog::Impl::point_to(int slot, RunSection& section, std::span<const uint32_t> places, const TagSet* only_from) {
  Tags& tags = tags_[section.table];
  std::array<int64_t, kMaxRuns + 1> lost{};
  for (const uint32_t place : places) {
    const int tag = tags.get(place);
    if (only_from != nullptr && !only_from->test(static_cast<size_t>(tag))) continue;
    ++lost[static_cast<size_t>(tag)];
    tags.set(place, slot);
    ++section.live;
  }
  live_rows_[section.table] += lost[0];
  for (size_t tag = 1; tag < lost.size(); ++tag) {
    if (lost[tag] > 0) runs_[tag]->section(section.table)->live -= lost[tag];
  }
}

void RowLog::Impl::drop_dead_runs() {
  const std::lock_guard retired(retired_mutex_);
  for (RunPointer& run : runs_) {
    if (!run || run->held) continue;
    const bool dead = std::all_of(run->sections.begin(), run->sections.end(),
                                  [](const RunSection& section) { return section.live == 0; });
    if (dead) retired_.push_back(std::move(run));
  }
}

void RowLog::Impl::reap() {
  const std::lock_guard retired(retired_mutex_);
  while (!retired_.empty()) {
    // Nobody can take hold of a retired run any more: one that is held only here stays so.
    const auto unused =
        std::find_if(retired_.begin(), retired_.end(), [](const RunPointer& run) { return run.use_count() == 1; });
    if (unused == retired_.end()) return;
    if (!options_.read_only) options_.files->remove((*unused)->path);
    retired_.erase(unused);
  }
}

void RowLog::Impl::reap_quietly() {
  try {
    reap();
  } catch (const IoError&) {  // stays retired: the next call that changes the log tries again and says so
  }
}

}  // namespace hotrow::storage
