"""Plans in other libraries' models. A file is a library; each needs that library installed."""
