//! What becomes of a prompt that leaves no room in the context. By default the request is refused; a request, or the
//! operator, may have the oldest part left out instead.

use engine::RejectReason;
use serde_json::Value;

use super::params::Params;
use crate::app::App;
use crate::config::Overflow;
use crate::error::ApiError;
use crate::fields::{Fields, shown};
use crate::model::ServedModel;

/// The words for [`Overflow`] on the wire.
const REJECT: &str = "reject";
const TRUNCATE: &str = "truncate";

/// `context_overflow`: what to do with a prompt that is too long.
pub(super) fn read_overflow(fields: &mut Fields, app: &App) -> Result<Overflow, ApiError> {
    match fields.value("context_overflow") {
        None => Ok(app.config.requests.context_overflow),
        Some(word) if word == REJECT => Ok(Overflow::Reject),
        Some(word) if word == TRUNCATE => Ok(Overflow::Truncate),
        Some(other) => {
            let allowed = format!("allowed are {REJECT} and {TRUNCATE}");
            Err(fields.wrong("context_overflow", &shown(&other), &allowed))
        }
    }
}

/// Most tokens that a prompt may have to be taken whole; `None` when one that has more is to be refused.
pub(super) fn prompt_room(params: &Params, model: &ServedModel) -> Option<usize> {
    let wanted = params.draft.max_tokens.map_or(1, |tokens| usize::try_from(tokens).unwrap_or(0));
    let room = model.engine.limits().context.saturating_sub(wanted);
    (params.overflow == Overflow::Truncate && room > 0).then_some(room)
}

/// Refuses a prompt whose bytes alone tell that the context cannot hold it: no token has more than the longest one. Of
/// use before it is tokenized, which takes seconds for many megabytes.
pub(super) fn refuse_hopeless(name: &str, bytes: usize, model: &ServedModel) -> Result<(), ApiError> {
    let context = model.engine.limits().context;
    if bytes < context {
        return Ok(());
    }
    let longest = model.longest_token_bytes();
    let tokens = bytes.div_ceil(longest);
    if tokens < context {
        return Ok(());
    }
    model.engine.count_rejected(RejectReason::TooLong);
    Err(ApiError::too_long(
        name,
        format!(
            "{bytes} bytes are at least {tokens} prompt tokens (the longest token has {longest} bytes) and do not fit the \
             context of {context} tokens"
        ),
    ))
}

/// Leaves out the oldest tokens, but for a first one that begins every text. Returns how many.
pub(super) fn cut_tokens(ids: &mut Vec<u32>, room: usize, bos: Option<u32>) -> usize {
    let dropped = ids.len().saturating_sub(room);
    let kept = usize::from(bos.is_some() && ids.first().copied() == bos).min(room);
    ids.drain(kept..kept + dropped);
    dropped
}

/// Encodes a conversation; where it has more than `room` tokens, without its oldest turns: the system's messages at the
/// start stay, and what is kept after them begins with a user's message. Returns how many messages were left out. One
/// that does not fit even so is returned whole, to be refused with its own length.
pub(super) fn encode_within(
    messages: &[Value],
    room: Option<usize>,
    encode: impl Fn(&[Value]) -> Result<Vec<u32>, ApiError>,
) -> Result<(Vec<u32>, usize), ApiError> {
    let mut best = (encode(messages)?, 0);
    let Some(room) = room.filter(|&room| best.0.len() > room) else { return Ok(best) };
    let system = messages.iter().take_while(|message| message["role"] == "system").count();
    let turns: Vec<usize> = (system + 1..messages.len()).filter(|&at| messages[at]["role"] == "user").collect();
    // The turns before `low` are too early to begin with; those from `high` on are not.
    let (mut low, mut high) = (0, turns.len());
    while low < high {
        let middle = low.midpoint(high);
        let kept = [&messages[..system], &messages[turns[middle]..]].concat();
        let ids = encode(&kept)?;
        if ids.len() <= room {
            best = (ids, turns[middle] - system);
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_tokens_go_but_the_first_stays_where_it_begins_every_text() {
        let check = |len: u32, room: usize, bos: Option<u32>, expected: &[u32]| {
            let mut ids: Vec<u32> = (0..len).collect();
            let dropped = cut_tokens(&mut ids, room, bos);
            assert_eq!((&ids[..], dropped), (expected, len as usize - expected.len()));
        };
        check(5, 5, None, &[0, 1, 2, 3, 4]);
        check(5, 3, None, &[2, 3, 4]);
        check(5, 3, Some(0), &[0, 3, 4]);
        check(5, 1, Some(0), &[0]);
        check(5, 3, Some(9), &[2, 3, 4]);
    }

    /// A token for each character of the contents.
    fn encode(messages: &[Value]) -> Result<Vec<u32>, ApiError> {
        let contents = messages.iter().map(|message| message["content"].as_str().unwrap_or_default());
        Ok(contents.flat_map(str::chars).map(u32::from).collect())
    }

    #[test]
    fn the_oldest_turns_go_and_the_system_stays() {
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let chat = [
            message("system", "s"),
            message("user", "11"),
            message("assistant", "22"),
            message("user", "33"),
            message("assistant", "44"),
            message("user", "55"),
        ];
        let check = |room: Option<usize>, expected: &str, dropped: usize| {
            let (ids, left_out) = encode_within(&chat, room, encode).expect("it encodes");
            let text: String = ids.iter().filter_map(|&id| char::from_u32(id)).collect();
            assert_eq!((text.as_str(), left_out), (expected, dropped), "{room:?}");
        };
        check(None, "s1122334455", 0);
        check(Some(11), "s1122334455", 0);
        check(Some(10), "s334455", 2);
        check(Some(7), "s334455", 2);
        check(Some(6), "s55", 4);
        check(Some(3), "s55", 4);
        check(Some(2), "s1122334455", 0);
    }
}
