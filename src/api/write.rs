//! `POST /api/v1/write` as the API describes it; the source room serves it.

use serde_json::json;

use super::error::Kind;
use super::operation::{AnswerKind, BARE, Operation, Param, RequestBody, Tag, Verb};

pub const WRITE: Operation = Operation {
    id: "write",
    verb: Verb::Post,
    path: "/api/v1/write",
    tag: Tag::Samples,
    summary: "Remote write",
    about: "Prometheus remote write: 1.0, or 2.0 where Content-Type has `proto=io.prometheus.write.v2.Request`. 204 once \
            every sample is durable. What passed of a message of 2.0 is counted in the headers \
            `X-Prometheus-Remote-Write-{Samples,Histograms,Exemplars}-Written` of the 204 and the 400.",
    params: &[Param::header(
        "Content-Encoding",
        true,
        "The block format of snappy, without frames.",
        || json!({"type": "string", "enum": ["snappy"]}),
    )],
    body: Some(RequestBody::Bytes("application/x-protobuf")),
    answer: AnswerKind::Nothing,
    problems: &[
        Kind::BadBody,
        Kind::SamplesRefused,
        Kind::CrossSite,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::Internal,
        Kind::Unavailable,
    ],
    ..BARE
};
