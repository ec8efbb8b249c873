"""What a run found, for people: Plotly figures, Markdown and terminal tables, and one self-contained HTML page."""
