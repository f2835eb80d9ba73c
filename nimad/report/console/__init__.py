"""The console: lines, progress bar, symbols and streams of a terminal or a pipe."""
