// The part of the kernel's io_uring interface that is used here, as of Linux 5.6: spelled out, so that a build does not
// depend on the age of the system's headers. Sizes and positions are the kernel's.
#pragma once

#include <cstdint>

namespace hotrow::storage::uring {

// The numbers of the system calls are the same on every architecture but Alpha.
inline constexpr long kSetupCall = 425;
inline constexpr long kEnterCall = 426;

inline constexpr uint32_t kSetupClamp = 1u << 4;
inline constexpr uint32_t kSetupCoopTaskrun = 1u << 8;  // 5.19: completions do not interrupt the program
inline constexpr uint32_t kFeatureSingleMmap = 1u << 0;
inline constexpr uint32_t kFeatureNoDrop = 1u << 1;
inline constexpr uint32_t kFeatureRwCurPos = 1u << 3;  // came with kOpRead and kOpWrite in 5.6
inline constexpr uint32_t kEnterGetEvents = 1u << 0;
inline constexpr int64_t kOffsetRings = 0;
inline constexpr int64_t kOffsetEntries = 0x10000000;

inline constexpr uint8_t kOpRead = 22;
inline constexpr uint8_t kOpWrite = 23;

struct SubmissionEntry {
  uint8_t opcode;
  uint8_t flags;
  uint16_t priority;
  int32_t fd;
  uint64_t offset;
  uint64_t address;
  uint32_t length;
  uint32_t rw_flags;
  uint64_t user_data;
  uint64_t unused[3];
};
static_assert(sizeof(SubmissionEntry) == 64);

struct CompletionEntry {
  uint64_t user_data;
  int32_t result;
  uint32_t flags;
};
static_assert(sizeof(CompletionEntry) == 16);

struct SubmissionOffsets {
  uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, reserved;
  uint64_t user_address;
};

struct CompletionOffsets {
  uint32_t head, tail, ring_mask, ring_entries, overflow, entries, flags, reserved;
  uint64_t user_address;
};

struct Parameters {
  uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
  uint32_t reserved[3];
  SubmissionOffsets sq;
  CompletionOffsets cq;
};
static_assert(sizeof(Parameters) == 120);

}  // namespace hotrow::storage::uring
