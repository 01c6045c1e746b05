"""What headings are called, for links that lead to them."""


def like_jupyterlab(heading):
    """Name a heading as JupyterLab does, so that a link to it works in both."""
    return heading.replace(" ", "-")
