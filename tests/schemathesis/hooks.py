"""What schemathesis has to know of remote write: its body is bytes."""

import schemathesis

schemathesis.serializer.alias("application/x-protobuf", "application/octet-stream")
