"""Scores that were computed elsewhere: files that clients send, checked and kept under a name."""

from __future__ import annotations

from gdmix_server.uploads.directory import ScoresUpload
from gdmix_server.uploads.headers import FORBIDDEN_ENDINGS, FORMATS, ROLES, UploadHeader
from gdmix_server.uploads.receiving import MAX_UPLOAD_BYTES, MAX_UPLOAD_ROWS, Uploads

__all__ = [
    "FORBIDDEN_ENDINGS",
    "FORMATS",
    "MAX_UPLOAD_BYTES",
    "MAX_UPLOAD_ROWS",
    "ROLES",
    "ScoresUpload",
    "UploadHeader",
    "Uploads",
]
