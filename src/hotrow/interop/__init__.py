"""Other libraries' values as hotrow's and back. A library is imported when a function needs it."""
