"""What the three papers report, looked for in networks that a CPU can train: each study is one command."""
