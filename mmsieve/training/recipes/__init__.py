"""The recipes in the package, a file each."""
