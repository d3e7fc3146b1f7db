//! A trace of each request, for OpenTelemetry.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    Context, KeyValue,
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};

use crate::{Error, Result, access::Access};

/// The name under which the server appears, unless `OTEL_SERVICE_NAME` has another.
const SERVICE: &str = "evo1";

/// Sends a span for each request, with one for its wait and one for each stage of the model inside.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Traces for the collector that the environment names: `OTEL_EXPORTER_OTLP_ENDPOINT`, `http://localhost:4318` by default.
    pub(crate) fn open() -> Result<Self> {
        let exporter = SpanExporter::builder().with_http().build().map_err(|error| Error::Traces(error.to_string()))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Self::new(provider.build()))
    }

    fn new(provider: SdkTracerProvider) -> Self {
        Self { tracer: provider.tracer("evo1-serve"), provider }
    }

    /// A request that has been answered or refused just now.
    pub(crate) fn request(&self, access: &Access<'_>) {
        let Access { peer, protocol, policy, holder, bytes, took, result } = *access;
        let end = SystemTime::now();
        let received = end.checked_sub(took).unwrap_or(end);
        let mut attributes = vec![
            KeyValue::new("evo1.protocol", protocol.to_owned()),
            KeyValue::new("evo1.policy", policy.to_owned()),
            KeyValue::new("evo1.message.bytes", bytes as i64),
        ];
        attributes.extend(peer.map(|peer| KeyValue::new("client.address", peer.ip().to_string())));
        attributes.extend(holder.map(|holder| KeyValue::new("evo1.token", holder.to_owned())));
        attributes.extend(result.ok().map(|answer| KeyValue::new("evo1.batch", answer.batch as i64)));
        attributes.extend(result.err().map(|kind| KeyValue::new("error.type", kind.name())));
        let span = self.tracer.span_builder("predict").with_kind(SpanKind::Server).with_start_time(received);
        let mut span = span.with_attributes(attributes).start(&self.tracer);
        if let Err(kind) = result {
            span.set_status(Status::error(kind.name()));
        }
        let context = Context::new().with_span(span);
        if let Ok(answer) = result {
            let stages = answer.times.stages();
            let computed: Duration = answer.queued + answer.times.total();
            // The rest of the time is reading the message, which came first.
            let mut at = end.checked_sub(computed).map_or(received, |start| start.max(received));
            for (name, took) in [("queue", answer.queued)].into_iter().chain(stages) {
                let part = self.tracer.span_builder(name).with_start_time(at);
                at += took;
                self.tracer.build_with_context(part, &context).end_with_timestamp(at);
            }
        }
        context.span().end_with_timestamp(end);
    }
}

impl Drop for Traces {
    /// What has not been sent yet is sent.
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!("the last traces were not sent: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use evo1::{ActionChunk, StageTimes};
    use opentelemetry::trace::SpanId;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};

    use super::*;
    use crate::{Answer, ErrorKind};

    /// The spans of a request that took 100 ms.
    fn spans(result: std::result::Result<&Answer, ErrorKind>) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let traces = Traces::new(SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build());
        let (took, bytes) = (Duration::from_millis(100), 7);
        traces.request(&Access { peer: None, protocol: "json", policy: "arm", holder: None, bytes, took, result });
        exporter.get_finished_spans().expect("spans")
    }

    fn took(span: &SpanData) -> Duration {
        span.end_time.duration_since(span.start_time).expect("ordered")
    }

    #[test]
    fn a_request_is_a_span_and_its_wait_and_stages_are_parts_of_it() {
        let chunk = ActionChunk::new(1, vec![0.0]);
        let [queued, vision, action] = [10, 20, 40].map(Duration::from_millis);
        let times = StageTimes { vision, action, ..StageTimes::default() };
        let answer = Answer { normalized: chunk.clone(), chunk, times, queued, batch: 1 };
        let mut spans = spans(Ok(&answer));
        let whole = spans.pop().expect("a span");
        assert_eq!(
            (&*whole.name, whole.parent_span_id, took(&whole)),
            ("predict", SpanId::INVALID, Duration::from_millis(100))
        );
        let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["queue", "prepare", "vision", "projector", "language", "action", "finish"]);
        assert!(spans.iter().all(|span| span.parent_span_id == whole.span_context.span_id()));
        let times: Vec<u128> = spans.iter().map(|span| took(span).as_millis()).collect();
        assert_eq!(times, [10, 0, 20, 0, 0, 40, 0]);
        assert_eq!(spans[0].start_time, whole.start_time + Duration::from_millis(30), "after the message was read");
        assert_eq!(spans[6].end_time, whole.end_time);
    }

    #[test]
    fn a_refused_request_says_why() {
        let spans = spans(Err(ErrorKind::TooSlow));
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].status, Status::error("too_slow"));
        assert!(spans[0].attributes.contains(&KeyValue::new("error.type", "too_slow")));
    }
}
