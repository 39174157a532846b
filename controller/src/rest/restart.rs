//! `POST /restart`: which properties may be set that way, and their textual form (`rest-api.md` section 10).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::Value;

use super::required;
use crate::config::property;
use crate::engine::ApiError;

/// Properties that cannot be changed this way.
const FIXED: &[&str] = &[
    "DOMAIN_OR_PUBLIC_IP",
    "CERTIFICATE_TYPE",
    "HTTP_PORT",
    "HTTPS_PORT",
    "OPENVIDU_SECRET",
    "OPENVIDU_PRO_LICENSE",
    "OPENVIDU_PRO_STATS_MONITORING_INTERVAL",
    "OPENVIDU_PRO_CLUSTER_TEST",
    "ELASTICSEARCH_USERNAME",
    "ELASTICSEARCH_PASSWORD",
    "KMS_IMAGE",
    "MEDIASOUP_IMAGE",
    "OPENVIDU_EDITION",
    "OPENVIDU_ENTERPRISE_MEDIA_SERVER",
    "OPENVIDU_PRO_ELASTICSEARCH_HOST",
    "OPENVIDU_PRO_KIBANA_HOST",
    "COTURN_IP",
    "COTURN_PORT",
    "COTURN_INTERNAL_RELAY",
];

/// The properties of a body as text. Weir's own cannot be set from afar.
///
/// # Errors
/// 400 with the property at fault.
pub fn properties(body: Option<&Value>) -> Result<BTreeMap<String, String>, ApiError> {
    required(body)?;
    let object = body.and_then(Value::as_object).expect("checked to be an object");
    object.iter().map(|(name, value)| Ok((name.clone(), text(name, value)?))).collect()
}

fn text(name: &str, value: &Value) -> Result<String, ApiError> {
    let refused = |why: &str| ApiError::with(400, format!("Property {name} {why}"));
    if FIXED.contains(&name) || name.starts_with("WEIR_") {
        return Err(refused("cannot be changed by a restart"));
    }
    if property::find(name).is_none()
        && property::no_effect(name).is_none_or(|why| why.starts_with("ignored"))
    {
        return Err(refused("does not exist"));
    }
    match value {
        Value::String(text) if !text.contains('\n') => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Array(items) if items.iter().all(Value::is_string) => Ok(value.to_string()),
        _ => Err(refused("must be a boolean, a number, a string or an array of strings")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn properties_become_text_or_are_refused() {
        let good = json!({"OPENVIDU_CDR": true, "OPENVIDU_PRO_STATS_SESSION_INTERVAL": 7,
                          "OPENVIDU_WEBHOOK_EVENTS": ["sessionCreated"], "OPENVIDU_WEBHOOK_ENDPOINT": "http://h/",
                          "OPENVIDU_PRO_SPEECH_TO_TEXT": "vosk"});
        let texts = properties(Some(&good)).unwrap();
        for (name, text) in [
            ("OPENVIDU_CDR", "true"),
            ("OPENVIDU_PRO_STATS_SESSION_INTERVAL", "7"),
            ("OPENVIDU_WEBHOOK_EVENTS", "[\"sessionCreated\"]"),
            ("OPENVIDU_WEBHOOK_ENDPOINT", "http://h/"),
            ("OPENVIDU_PRO_SPEECH_TO_TEXT", "vosk"),
        ] {
            assert_eq!(texts[name], text);
        }
        for bad in [
            json!({"OPENVIDU_SECRET": "x"}),
            json!({"WEIR_LISTEN": "0.0.0.0:1"}),
            json!({"HTTPS_PORT": 5}),
            json!({"NO_SUCH": true}),
            json!({"OPENVIDU_NO_SUCH": true}),
            json!({"OPENVIDU_CDR": null}),
            json!({"OPENVIDU_CDR": {}}),
            json!({"OPENVIDU_WEBHOOK_EVENTS": [1]}),
            json!([]),
        ] {
            assert_eq!(properties(Some(&bad)).unwrap_err().status, 400, "{bad}");
        }
        assert_eq!(properties(None).unwrap_err().status, 400);
    }
}
