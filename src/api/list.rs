//! Lists: rows as `{"data":[...],"next":cursor|null}` or as CSV.

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::cursor::PageCursor;
use super::error::Problem;
use super::params::{ListFormat, Params};
use crate::store::Page;
use crate::store::record::{ColumnShape, RowRecord, write_csv, write_csv_header, write_json};

/// The answer to a question for a list; `key` is the cursor of a row.
///
/// # Errors
/// 400 for a bad `format`; nothing else can fail.
pub fn answer<R: RowRecord>(
    params: &Params,
    page: &Page<R>,
    key: impl FnOnce(&R) -> PageCursor,
) -> Result<Response, Problem> {
    let next = page.rows.last().filter(|_| page.more).map(|row| key(row).encode(params));
    let format = params.format()?;
    let body = match format {
        ListFormat::Json => json(&page.rows, next.as_deref()),
        ListFormat::Csv => csv(&page.rows),
    };
    let body = body.map_err(|error| Problem::internal(format!("cannot write a list: {error}")))?;
    let content_type = match format {
        ListFormat::Json => "application/json",
        ListFormat::Csv => "text/csv; charset=utf-8",
    };
    let mut response = ([(CONTENT_TYPE, content_type)], body).into_response();
    if let (ListFormat::Csv, Some(next)) = (format, next)
        && let Ok(next) = HeaderValue::from_str(&next)
    {
        response.headers_mut().insert("x-next-cursor", next);
    }
    Ok(response)
}

fn json<R: RowRecord>(rows: &[R], next: Option<&str>) -> std::io::Result<Vec<u8>> {
    let mut body = b"{\"data\":[".to_vec();
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        write_json(row, ColumnShape::default(), &mut body)?;
    }
    body.extend_from_slice(b"],\"next\":");
    serde_json::to_writer(&mut body, &next)?;
    body.push(b'}');
    Ok(body)
}

fn csv<R: RowRecord>(rows: &[R]) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    write_csv_header(R::COLUMNS, ColumnShape::default(), &mut body)?;
    for row in rows {
        write_csv(row, ColumnShape::default(), &mut body)?;
    }
    Ok(body)
}
