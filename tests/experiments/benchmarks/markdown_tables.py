"""Parses tables in Markdown."""


def tables(text):
    """The tables of a text, as lists of rows, which are lists of strings; headings come first."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.startswith("|")]
        if lines:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            assert len({len(row) for row in rows}) == 1, "all rows have the same length"
            assert len({*rows[0]}) == len(rows[0]), "column names are distinct"
            found.append([rows[0], *rows[2:]])
    return found
