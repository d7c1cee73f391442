"""A hook of mkdocs: links that lead out of docs/, to files of the repository, are shown as their paths."""

import re

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown, **_):
    """Replace a link to a file outside the site by its text and the file's path in the repository."""

    def shown(link):
        return f"`{link[2]}`" if link[1] == link[2] else f"{link[1]} (`{link[2]}`)"

    return _OUTSIDE.sub(shown, markdown)
