"""Reads tables in Markdown back."""


def tables(text):
    """The tables of a text, each a list of rows, which are lists of cells; headings first."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.startswith("|")]
        if lines:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            assert len({len(row) for row in rows}) == 1, "all rows have as many cells"
            assert len({*rows[0]}) == len(rows[0]), "a column has a name of its own"
            found.append([rows[0], *rows[2:]])
    return found
