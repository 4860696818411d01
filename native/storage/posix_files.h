// The machine's file system. Transfers go through channels that a Channels hands out.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "file_transfer.h"

namespace hotrow::storage {

/// Channels for whoever transfers at the moment.
class Channels {
 public:
  virtual ~Channels() = default;
  virtual int depth() const = 0;
  virtual std::unique_ptr<Channel> take() = 0;  // may wait; throws std::system_error
};

/// decorate: puts something between transfers and their channel; tests do.
using Decorate = std::function<std::unique_ptr<Channel>(std::unique_ptr<Channel> inner)>;

std::shared_ptr<FileSystem> make_posix_files(std::shared_ptr<Channels> channels, Decorate decorate = nullptr);

/// `depth` in flight per call, by a pool of that many threads, at most 64.
std::shared_ptr<Channels> make_thread_channels(int depth);

/// What make_file_system takes for this backend. Throws IoError, std::invalid_argument.
std::shared_ptr<Channels> make_channels(Backend backend, int depth);

}  // namespace hotrow::storage
