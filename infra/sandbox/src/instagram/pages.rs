//! Pages of a list, newest first. A cursor stands for an offset, so what comes in front moves all that follows; it is opaque all the
//! same. A page is cut before what may not be seen is taken out of it, so it may be empty and have a next one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{params::Query, refusal::Refusal};

/// The list that is asked for, and where.
pub(super) struct Asked<'a> {
    /// Where the API is, version included.
    pub(super) url: &'a str,
    /// `{id}/{edge}`.
    pub(super) edge: String,
    pub(super) query: Query,
    pub(super) token: &'a str,
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    /// The page is empty although items follow, and the same offset is asked for again.
    pub(super) empty: bool,
}

fn cursor(edge: &str, offset: usize) -> String {
    format!("QVFI{}", URL_SAFE_NO_PAD.encode(format!("{offset}:{edge}")))
}

fn offset(edge: &str, cursor: &str) -> Option<usize> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor.strip_prefix("QVFI")?).ok()?;
    let (offset, of) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    offset.parse().ok().filter(|_| of == edge)
}

impl Asked<'_> {
    /// `render` leaves out what may not be seen.
    pub(super) fn page<T>(
        &self,
        rows: &[T],
        render: impl Fn(&T) -> Result<Option<Value>, Refusal>,
    ) -> Result<Value, Refusal> {
        let begin = match &self.after {
            Some(text) => offset(&self.edge, text).ok_or_else(|| Refusal::parameter("Invalid cursor"))?,
            None => 0,
        };
        let begin = begin.min(rows.len());
        let end = if self.empty { begin } else { (begin + self.limit).min(rows.len()) };
        let mut data = Vec::new();
        for row in &rows[begin..end] {
            data.extend(render(row)?);
        }
        if rows.is_empty() {
            return Ok(json!({ "data": [] }));
        }
        let after = cursor(&self.edge, end);
        let mut paging = json!({ "cursors": { "before": cursor(&self.edge, begin), "after": after } });
        if end < rows.len() {
            let query = self.query.with_after(&after, self.token);
            paging["next"] = json!(format!("{}/{}?{query}", self.url, self.edge));
        }
        Ok(json!({ "data": data, "paging": paging }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_for_its_own_list() {
        let text = cursor("1/media", 25);
        assert!(!text.contains("25"), "{text}");
        assert_eq!(offset("1/media", &text), Some(25));
        assert_eq!(offset("2/media", &text), None);
        assert_eq!(offset("1/media", "25"), None);
    }
}
