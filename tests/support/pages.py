"""The parts of a report's page, as a reader sees them."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tables of a page by caption, the texts of its sections, and what its elements say.

    Attributes:
        tables: (caption, rows of texts), the headings being the first row.
        sections: the texts of each section by its id.
        scripts: (attributes, text) of each script element.
        elements: (tag, attributes) of all elements.
    """

    def __init__(self, path):
        super().__init__()
        self.tables, self.sections, self.scripts, self.elements = [], {}, [], []
        self.section = self.within = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.elements.append((tag, values))
        if tag == "section":
            self.section = values["id"] if "id" in values else ""
            self.sections.setdefault(self.section, [])
        elif tag == "table":
            self.tables.append(["", []])
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        elif tag == "script":
            self.scripts.append([values, ""])
        if tag in ("td", "th", "caption", "script"):
            self.within = tag

    def handle_endtag(self, tag):
        if tag == self.within:
            self.within = None
        if tag == "section":
            self.section = None

    def handle_data(self, data):
        if self.within == "caption":
            self.tables[-1][0] += data
        elif self.within == "script":
            self.scripts[-1][1] += data
        elif self.within:
            self.tables[-1][1][-1][-1] += data
        elif self.section is not None and data.strip():
            self.sections[self.section].append(data.strip())

    def table(self, caption):
        """Returns the rows of the table with a caption, as dicts by heading."""
        ((_, (headings, *rows)),) = [each for each in self.tables if each[0] == caption]
        return [dict(zip(headings, row, strict=True)) for row in rows]
