"""A server that emulates a bucket: python tests/bucket.py PORT, until it is killed."""

import sys

from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

BUCKET = "genjax-test"

plain = objects.download


def download(request, response, storage, *args, **kwargs):
    """Add the version of the object, which the real service sends and TensorStore wants."""
    plain(request, response, storage, *args, **kwargs)
    if response.status < 400:
        names = (request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = storage.get_file_obj(*names)["generation"]


if __name__ == "__main__":
    objects.download = download
    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=BUCKET).run()
