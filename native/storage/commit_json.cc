#include "commit_json.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "hotrow/storage/file.h"

namespace hotrow::storage {
namespace {

constexpr int kMaxDepth = 16;

}  // namespace

/// Recursive descent over one text.
class JsonReader {
 public:
  JsonReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json read_all() {
    Json value = read_value(0);
    skip_space();
    if (position_ != text_.size()) fail("the end");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    throw FormatFault(where_ + ": byte " + std::to_string(position_) + ": expected " + expected);
  }

  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n')) ++position_;
  }

  bool take(char symbol) {
    skip_space();
    if (position_ >= text_.size() || text_[position_] != symbol) return false;
    ++position_;
    return true;
  }

  void need(char symbol) {
    if (!take(symbol)) fail(std::string("'") + symbol + "'");
  }

  Json read_value(int depth) {
    if (depth > kMaxDepth) fail("less nesting");
    Json value;
    value.where_ = where_;
    if (take('{')) {
      read_members(value, depth);
    } else if (take('[')) {
      read_items(value, depth);
    } else if (take('"')) {
      value.kind_ = Json::Kind::kString;
      value.text_ = read_string();
    } else {
      value.kind_ = Json::Kind::kNumber;
      value.number_ = read_number();
    }
    return value;
  }

  void read_members(Json& value, int depth) {
    value.kind_ = Json::Kind::kObject;
    if (take('}')) return;
    do {
      need('"');
      std::string key = read_string();
      need(':');
      if (!value.members_.emplace(std::move(key), read_value(depth + 1)).second) fail("each key once");
    } while (take(','));
    need('}');
  }

  void read_items(Json& value, int depth) {
    value.kind_ = Json::Kind::kArray;
    if (take(']')) return;
    do value.items_.push_back(read_value(depth + 1));
    while (take(','));
    need(']');
  }

  std::string read_string() {
    std::string result;
    while (position_ < text_.size()) {
      const char symbol = text_[position_++];
      if (symbol == '"') return result;
      result += symbol == '\\' ? read_escape() : symbol;
    }
    fail("'\"'");
  }

  char read_escape() {
    const char symbol = position_ < text_.size() ? text_[position_++] : '\0';
    if (symbol == '"' || symbol == '\\' || symbol == '/') return symbol;
    if (symbol == 'n') return '\n';
    if (symbol != 'u') fail("an escape of this format");
    unsigned code = 0;
    const char* begin = text_.data() + position_;
    const char* end = text_.data() + std::min(position_ + 4, text_.size());
    if (std::from_chars(begin, end, code, 16).ptr != begin + 4 || code >= 0x20) fail("an escaped control character");
    position_ += 4;
    return static_cast<char>(code);
  }

  int64_t read_number() {
    int64_t value = 0;
    const auto result = std::from_chars(text_.data() + position_, text_.data() + text_.size(), value);
    if (result.ec != std::errc()) fail("a value");
    position_ = static_cast<size_t>(result.ptr - text_.data());
    return value;
  }

  const std::string_view text_;
  const std::string& where_;
  size_t position_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) { return JsonReader(text, where).read_all(); }

void Json::refuse(const std::string& expected) const { throw FormatFault(where_ + ": no " + expected); }

const Json& Json::at(const std::string& key) const {
  const auto member = members_.find(key);
  if (member == members_.end()) refuse("\"" + key + "\"");
  return member->second;
}

const std::vector<Json>& Json::items() const {
  if (kind_ != Kind::kArray) refuse("array where one is expected");
  return items_;
}

const std::string& Json::text() const {
  if (kind_ != Kind::kString) refuse("string where one is expected");
  return text_;
}

int64_t Json::number() const {
  if (kind_ != Kind::kNumber) refuse("number where one is expected");
  return number_;
}

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char symbol : text) {
    if (symbol == '"' || symbol == '\\') result += '\\';
    if (static_cast<unsigned char>(symbol) >= 0x20) {
      result += symbol;
      continue;
    }
    char escape[8];
    std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned>(symbol));
    result += escape;
  }
  return result + "\"";
}

}  // namespace hotrow::storage
