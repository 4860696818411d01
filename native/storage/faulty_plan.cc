#include "faulty_plan.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace hotrow::storage {
namespace {

const std::set<std::string_view> kOperations = {
    "*",      "read", "write",          "sync",           "reserve",          "open", "create", "remove",
    "rename", "link", "make directory", "sync directory", "remove directory", "list", "exists", "lock"};

void check_rule(const FaultRule& rule) {
  const bool transfer = rule.operation == "read" || rule.operation == "write";
  if (!kOperations.contains(rule.operation)) {
    throw std::invalid_argument("fault: there is no operation '" + rule.operation + "'");
  }
  if (rule.first < 1 || rule.times < -1 || rule.num_bytes < 0 || rule.bit < 0 || rule.bit > 7) {
    throw std::invalid_argument("fault: calls count from 1, bytes from 0, bits from 0 to 7");
  }
  if ((rule.action == FaultAction::kShort && !transfer) ||
      (rule.action == FaultAction::kFlip && rule.operation != "read")) {
    throw std::invalid_argument("fault: only reads and writes can be short, and only reads flip bits");
  }
  if (rule.action == FaultAction::kError && rule.error_number < 1) {
    throw std::invalid_argument("fault: an error needs its errno");
  }
}

bool contains(const std::string& path, const std::string& part) { return path.find(part) != std::string::npos; }

bool matches(const FaultRule& rule, const Call& call) {
  if (rule.operation != "*" && rule.operation != call.operation) return false;
  if (!contains(call.path, rule.path_part) && !contains(call.to, rule.path_part)) return false;
  return rule.action != FaultAction::kFlip || (rule.byte >= call.offset && rule.byte < call.offset + call.size);
}

}  // namespace

void FaultPlan::Impl::add(FaultRule rule) {
  check_rule(rule);
  const std::lock_guard lock(mutex_);
  rules_.push_back({std::move(rule)});
}

void FaultPlan::Impl::clear() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
}

CallCount FaultPlan::Impl::count(const std::string& operation, const std::string& path_part) const {
  const std::lock_guard lock(mutex_);
  CallCount sum;
  for (const auto& [key, count] : counts_) {
    if ((operation != "*" && operation != key.first) || !contains(key.second, path_part)) continue;
    sum.calls += count.calls;
    sum.bytes += count.bytes;
  }
  return sum;
}

Verdict FaultPlan::Impl::judge(const Call& call) {
  Verdict verdict;
  double delay = 0;
  {
    const std::lock_guard lock(mutex_);
    CallCount& count = counts_[{call.operation, call.path}];
    ++count.calls;
    count.bytes += call.size;
    for (Rule& rule : rules_) {
      if (!matches(rule, call)) continue;
      const int64_t number = ++rule.num_matched;
      if (number < rule.first || (rule.times >= 0 && number >= rule.first + rule.times)) continue;
      if (rule.action == FaultAction::kError) verdict.error_number = rule.error_number;
      if (rule.action == FaultAction::kShort) verdict.max_bytes = std::min(verdict.max_bytes, rule.num_bytes);
      if (rule.action == FaultAction::kFlip) verdict.flips.emplace_back(rule.byte, rule.bit);
      if (rule.action == FaultAction::kDelay) delay += rule.seconds;
      if (rule.action == FaultAction::kPowerOff) off = true;
    }
  }
  if (delay > 0) std::this_thread::sleep_for(std::chrono::duration<double>(delay));
  if (off) verdict.error_number = EIO;
  return verdict;
}

void FaultPlan::Impl::check(const Call& call) {
  const int error_number = judge(call).error_number;
  if (error_number != 0) throw IoError(call.path, call.operation, call.offset, error_number);
}

FaultPlan::FaultPlan() : impl_(std::make_unique<Impl>()) {}
FaultPlan::~FaultPlan() = default;
void FaultPlan::add(FaultRule rule) { impl_->add(std::move(rule)); }
void FaultPlan::clear() { impl_->clear(); }

CallCount FaultPlan::count(const std::string& operation, const std::string& path_part) const {
  return impl_->count(operation, path_part);
}

void FaultPlan::record_writes() {
  const std::unique_lock lock(impl_->power);
  if (!impl_->journal) impl_->journal = std::make_unique<PowerJournal>();
}

void FaultPlan::power_cut(uint64_t seed) {
  impl_->off = true;
  const std::unique_lock lock(impl_->power);
  if (!impl_->journal) throw std::logic_error("power_cut: record_writes was not called before the files were written");
  impl_->journal->cut(seed);
}

}  // namespace hotrow::storage
