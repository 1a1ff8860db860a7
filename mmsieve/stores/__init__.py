"""Object stores: whatever of ours lies at a URL is found, read, written and removed here.

A `StorePath` stands where a Path does. What differs from a disk:

- A file appears by one whole put of a finished local copy; a multipart upload is completed last.
- A folder that a disk would rename into place is put file by file: first an object that says so (in
  `MAKING`), last a receipt (`RECEIPT`) with the files' names and sizes. Readers trust what it
  names, and nothing while it is in the making. One that never had one, as of `score`, is its files.
- A journal is a folder with an object per line.
- Who writes is told by leases, in `leases.py`.

Errors of stores are OSErrors. Those that may pass are asked again, by botocore and then here.
Credentials come by the standard chains of each store's own library.
"""
