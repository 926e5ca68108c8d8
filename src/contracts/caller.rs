//! What S3 says of a caller that it does not know. `object_store` knows a few statuses only, so the code is looked for in its answer.
//!
//! "Error responses" of the S3 API has them: some come with 403, as what is denied to a caller that it knows, and so does a request whose
//! time is not the service's; those of session tokens with 400, as any other bad request.

use super::error::Error;

/// Codes of credentials that no repetition mends.
const WRONG: [&str; 3] = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"];
/// The one of a token whose time is over: whoever gave it may give the next one at any time.
const EXPIRED: &str = "ExpiredToken";
/// The one of a request that was signed more than 15 minutes away from the service's time: a machine that stood still has a clock that does,
/// until it is set.
const OUT_OF_TIME: &str = "RequestTimeTooSkewed";

/// What to do about credentials that are wrong, or not there.
pub const NO_CREDENTIALS: &str =
    "the AWS credentials are missing, wrong or expired: check the profile, role or environment";
/// The same of those whose time is over.
const EXPIRED_CREDENTIALS: &str = "the AWS credentials have expired: it is tried again with those that are there by then; if that lasts, \
                                   check the profile, role or environment, or log in again";

/// What to do about a request that was signed at another time than the service's: the next one is signed anew.
pub const SET_THE_CLOCK: &str = "it is signed anew and asked again; if that lasts, set the clock of this machine";

/// The error of an answer that refuses the caller's credentials, or the time of its request; `None` where it is about something else.
pub fn refused_credentials(message: &str, answer: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(answer);
    while let Some(error) = next {
        let text = error.to_string();
        let says = |code: &str| text.contains(&format!("<Code>{code}</Code>"));
        if says(EXPIRED) {
            return Some(Error::unavailable(message).hint(EXPIRED_CREDENTIALS));
        }
        if says(OUT_OF_TIME) {
            return Some(Error::unavailable(message).hint(SET_THE_CLOCK));
        }
        if WRONG.into_iter().any(says) {
            return Some(Error::config(message).hint(NO_CREDENTIALS));
        }
        next = error.source();
    }
    None
}
