// The little JSON that headers and rows.json are made of: written in a fixed form, read strictly.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hotrow::storage {

/// A value as read: object, array, string or whole number.
class Json {
 public:
  /// Throws FormatFault naming `where` and the byte at which the text stops being JSON.
  static Json parse(std::string_view text, const std::string& where);

  /// Throw FormatFault naming `where` if the value is not of that kind or has no such member.
  const Json& at(const std::string& key) const;
  const std::vector<Json>& items() const;
  const std::string& text() const;
  int64_t number() const;

 private:
  friend class JsonReader;
  enum class Kind { kNone, kObject, kArray, kString, kNumber };
  [[noreturn]] void refuse(const std::string& expected) const;

  Kind kind_ = Kind::kNone;
  std::string where_;
  std::map<std::string, Json> members_;
  std::vector<Json> items_;
  std::string text_;
  int64_t number_ = 0;
};

/// A string in quotes, escaped.
std::string quoted(std::string_view text);

}  // namespace hotrow::storage
