//! Who may ask: `Host` names and API keys, for every route, known or not.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HOST};
use engine::Tenant;
use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// Routes that answer without a key: probes of supervisors and load balancers.
const OPEN_ROUTES: &[&str] = &["/health", "/health/live", "/health/ready"];

/// The keys that clients may send, as hashes: comparing those takes the same time wherever they differ.
#[derive(Debug)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| Sha256::digest(key).into()).collect())
    }

    /// On whose account a request with this bearer token runs; `None` when it may not.
    fn tenant(&self, token: Option<&str>) -> Option<Tenant> {
        if self.0.is_empty() {
            return Some(Tenant(0));
        }
        let hash: [u8; 32] = Sha256::digest(token?).into();
        let found = self.0.iter().position(|known| known == &hash)?;
        Some(Tenant(found as u64 + 1))
    }
}

/// Lets a request pass, with its tenant, or says why not.
pub(crate) fn guard(request: &Request, keys: &Keys, allowed_hosts: &[String]) -> Result<Tenant, ApiError> {
    check_host(request, allowed_hosts)?;
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match keys.tenant(token) {
        Some(tenant) => Ok(tenant),
        None if OPEN_ROUTES.contains(&request.uri().path()) => Ok(Tenant(0)),
        None if token.is_none() => Err(ApiError::unauthorized("no API key: send `Authorization: Bearer KEY`")),
        None => Err(ApiError::unauthorized("wrong API key")),
    }
}

/// Refuses names that are not ours: a web page whose name was made to point here (DNS rebinding) has such a name.
/// IP addresses cannot be rebound.
fn check_host(request: &Request, allowed: &[String]) -> Result<(), ApiError> {
    let header = request.headers().get(HOST).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    let Some(host) = request.uri().authority().map(|authority| authority.as_str()).or(header) else { return Ok(()) };
    let name = host_name(host);
    let known = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name));
    if known {
        return Ok(());
    }
    let message = format!("host {name:?} is not served here (MISTRAL_ALLOWED_HOSTS names those that are)");
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn status(host: &str, path: &str, authorization: Option<&str>) -> u16 {
        let keys = Keys::new(&["sesame".to_owned(), "other".to_owned()]);
        let mut request = Request::builder().uri(path).header(HOST, host);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Body::empty()).unwrap();
        match guard(&request, &keys, &["box.example".to_owned()]) {
            Ok(_) => 200,
            Err(error) => error.status().as_u16(),
        }
    }

    #[test]
    fn only_our_names_are_hosts() {
        for (host, expected) in [
            ("localhost", 200),
            ("localhost:8080", 200),
            ("127.0.0.1:8080", 200),
            ("[::1]:8080", 200),
            ("::1", 200),
            ("BOX.example:1", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 403),
        ] {
            assert_eq!(status(host, "/v1/models", Some("Bearer sesame")), expected, "{host:?}");
        }
    }

    #[test]
    fn all_routes_but_probes_need_a_key() {
        for (path, authorization, expected) in [
            ("/v1/models", None, 401),
            ("/metrics", None, 401),
            ("/nowhere", None, 401),
            ("/v1/models", Some("Bearer wrong"), 401),
            ("/v1/models", Some("Basic sesame"), 401),
            ("/v1/models", Some("Bearer sesame"), 200),
            ("/v1/models", Some("bearer  other"), 200),
            ("/health", None, 200),
            ("/health/ready", None, 200),
            ("/health/", None, 401),
        ] {
            assert_eq!(status("localhost", path, authorization), expected, "{path} {authorization:?}");
        }
    }
}
