// What the tests of the row log compare it with: a map, and records that tell where they belong.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "hotrow/storage/row_log.h"

namespace hotrow::test {

/// A directory of its own under the working directory (/tmp may be memory), removed at the end.
class Scratch {
 public:
  explicit Scratch(const std::string& name) {
    std::string path = name + ".XXXXXX";
    CHECK(mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// The bytes of a record: a function of where it belongs and of its version.
inline std::vector<std::byte> record_of(int64_t table, uint32_t place, uint64_t version, int64_t bytes) {
  std::vector<std::byte> record(static_cast<size_t>(bytes));
  Random random(version * 1000003 + static_cast<uint64_t>(table) * 7919 + place);
  for (size_t at = 0; at < record.size(); at += 8) {
    const uint64_t word = random.next();
    std::memcpy(record.data() + at, &word, std::min<size_t>(8, record.size() - at));
  }
  return record;
}

/// Version of every row ever written, by (table, place).
using Oracle = std::map<std::pair<int64_t, uint32_t>, uint64_t>;

/// `count` places below `num_rows`, ascending, each once; fewer where some coincide.
inline std::vector<uint32_t> draw_places(Random& random, int64_t num_rows, int64_t count) {
  std::vector<uint32_t> places;
  for (int64_t i = 0; i < count; ++i) places.push_back(static_cast<uint32_t>(random.below(num_rows)));
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  return places;
}

/// Records of one version for places of several tables, and the sections that name them.
class Batch {
 public:
  Batch(const std::vector<storage::TableLayout>& tables, uint64_t version) : tables_(tables), version_(version) {}

  void add(int64_t table, std::vector<uint32_t> places) {
    std::vector<std::byte> records;
    for (const uint32_t place : places) {
      const auto record = record_of(table, place, version_, tables_[static_cast<size_t>(table)].record_bytes);
      records.insert(records.end(), record.begin(), record.end());
    }
    tables_of_.push_back(table);
    places_.push_back(std::move(places));
    records_.push_back(std::move(records));
  }

  std::vector<storage::AppendSection> sections() const {
    std::vector<storage::AppendSection> sections;
    for (size_t i = 0; i < places_.size(); ++i) sections.push_back({tables_of_[i], places_[i], records_[i].data()});
    return sections;
  }

  void note(Oracle& oracle) const {
    for (size_t i = 0; i < places_.size(); ++i) {
      for (const uint32_t place : places_[i]) oracle[{tables_of_[i], place}] = version_;
    }
  }

 private:
  const std::vector<storage::TableLayout>& tables_;
  const uint64_t version_;
  std::vector<int64_t> tables_of_;
  std::vector<std::vector<uint32_t>> places_;
  std::vector<std::vector<std::byte>> records_;
};

/// Reads places of every table at once from a log or a store and compares each record.
template <typename Source>
void check_rows(Source& source, const Oracle& oracle, const std::vector<std::vector<uint32_t>>& places) {
  const std::vector<storage::TableLayout>& tables = source.tables();
  std::vector<std::vector<std::byte>> records(tables.size());
  std::vector<std::vector<uint8_t>> found(tables.size());
  std::vector<storage::ReadRequest> requests;
  for (size_t t = 0; t < tables.size(); ++t) {
    records[t].resize(places[t].size() * static_cast<size_t>(tables[t].record_bytes));
    found[t].assign(places[t].size(), 7);
    requests.push_back({static_cast<int64_t>(t), places[t], records[t].data(), found[t].data()});
  }
  source.read(requests);
  for (size_t t = 0; t < tables.size(); ++t) {
    const auto bytes = static_cast<size_t>(tables[t].record_bytes);
    for (size_t i = 0; i < places[t].size(); ++i) {
      const auto expected = oracle.find({static_cast<int64_t>(t), places[t][i]});
      CHECK(found[t][i] == (expected != oracle.end()), "table %zu, place %u: found %d", t, places[t][i], found[t][i]);
      if (expected == oracle.end()) continue;
      const auto record = record_of(static_cast<int64_t>(t), places[t][i], expected->second, tables[t].record_bytes);
      CHECK(std::memcmp(records[t].data() + i * bytes, record.data(), bytes) == 0, "table %zu, place %u, version %llu",
            t, places[t][i], static_cast<unsigned long long>(expected->second));
    }
  }
}

/// Every row of every table.
template <typename Source>
void check_all(Source& source, const Oracle& oracle) {
  std::vector<std::vector<uint32_t>> places(source.tables().size());
  for (size_t t = 0; t < places.size(); ++t) {
    for (int64_t place = 0; place < source.tables()[t].num_rows; ++place) {
      places[t].push_back(static_cast<uint32_t>(place));
    }
  }
  check_rows(source, oracle, places);
}

/// What a scan hands over, piece by piece, is the oracle in order.
template <typename Source>
void check_scan(Source& source, const Oracle& oracle) {
  for (size_t t = 0; t < source.tables().size(); ++t) {
    const int64_t bytes = source.tables()[t].record_bytes;
    auto next = oracle.lower_bound({static_cast<int64_t>(t), 0});
    source.scan(static_cast<int64_t>(t), [&](std::span<const uint32_t> places, const std::byte* records) {
      for (size_t i = 0; i < places.size(); ++i, ++next) {
        CHECK(next != oracle.end() && next->first == std::make_pair(static_cast<int64_t>(t), places[i]));
        const auto record = record_of(static_cast<int64_t>(t), places[i], next->second, bytes);
        CHECK(std::memcmp(records + static_cast<int64_t>(i) * bytes, record.data(), record.size()) == 0);
      }
    });
    CHECK(next == oracle.end() || next->first.first > static_cast<int64_t>(t));
  }
}

}  // namespace hotrow::test
