"""Settings of the documentation: `nox -s docs` builds it, and takes every warning for an error."""

import importlib.metadata

project = "anyscope"
author = "anyscope contributors"
copyright = "2026, anyscope contributors"
release = importlib.metadata.version("anyscope")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"anyscope {release}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autoclass_content = "class"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

nitpicky = True
# Not intersphinx, which fetches an index from each project's site: the build works without a network, and names of
# other projects stay plain text.
nitpick_ignore_regex = [
    ("py:.*", r"(anyio|trio|asyncio|collections|contextlib|contextvars|datetime|types|typing|enum|abc|logging)(\..*)?"),
    ("py:.*", r"(bool|bytes|dict|float|frozenset|int|list|object|set|str|tuple|type|None|NoneType|\.\.\.|Ellipsis)"),
    ("py:(class|exc|obj)", r".*(Error|Exception|ExceptionGroup|Interrupt|Exit|StopAsyncIteration)"),
    (
        "py:(class|obj)",
        r"(Any|Callable|Awaitable|Coroutine|Iterable|Iterator|Sequence|Mapping|Generator|Self|TracebackType|timedelta)",
    ),
    # Aliases, and classes of the lower floors that only appear in signatures.
    (
        "py:(class|obj)",
        r"(anyscope\._\w+\..*|Result|Jobs|Owner|Checked|Ambient|Outcome|(Task|Cancel|Disposal)Kind|Every|Missed|Poll(Moment|State))",
    ),
    ("py:(class|obj)", r"(Scenario|Schedule|Stock|Pool(Moment|Options)|Reading|Overflow|Errors|Halt)"),
    ("py:(class|obj)", r"(_?Async\w+|Abstract\w+|_GeneratorContextManager|Task(Group|Info|Status))"),
    ("py:(class|obj)", r"~?(.*\.)?_?([A-Z]|Ts|[A-Z][A-Za-z]*T|T_\w+|P|PosArgs\w*)(_co|_contra)?"),  # type variables
]
