"""What an evaluation on the twin found: its raw values, their summary, tables, plots and page."""
