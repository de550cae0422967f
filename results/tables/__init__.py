"""Tables from records: pandas, CSV, Markdown and the terminal."""
