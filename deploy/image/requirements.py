"""Prints what pyproject.toml depends on, one a line, so that a layer can have it before the source: FILE EXTRA…"""

import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = [name for extra in sys.argv[2:] for name in project["optional-dependencies"][extra]]
# dumb-init is the image's own: its first process.
print("\n".join([*project["dependencies"], *extras, "dumb-init"]))
