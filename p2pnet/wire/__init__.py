"""The wire: frames and messages (`codec`), and one exchange as a state table (`exchange`). No I/O."""
