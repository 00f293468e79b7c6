"""A parsed HTML page."""

import html.parser


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and collects texts, addresses and tags."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.addresses, self.text = [], [], [], ""
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, text):
        self.text += text
