"""What a person or a pipeline calls: the command line, reports and files."""
