// rows.json: what a commit says about the runs it consists of.
#pragma once

#include <string>
#include <vector>

#include "hotrow/storage/file.h"
#include "hotrow/storage/row_log.h"
#include "run_file.h"

namespace hotrow::storage {

constexpr char kCommitFile[] = "rows.json";

struct CommitContent {
  uint64_t next_sequence = 1;
  std::vector<TableLayout> tables;
  std::vector<RunEntry> runs;  // ascending by sequence number
};

/// Writes and syncs `directory`/rows.json; returns its bytes.
int64_t write_commit(FileSystem& files, const std::string& directory, const CommitContent& content);

/// Throws FormatFault naming what is wrong with it.
CommitContent read_commit(FileSystem& files, const std::string& directory);

/// Throws FormatFault naming the first thing in which `tables` are not those of `content`, grown or not.
void check_tables(const CommitContent& content, const std::vector<TableLayout>& tables, const std::string& path);

}  // namespace hotrow::storage
