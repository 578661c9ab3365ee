"""What a load test found: figures as JSON, a page to look at, comparison of two runs."""
