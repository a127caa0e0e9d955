/** @file Describes what the gateway tells, as types. No code: docs/api.md says what each field means. */

/** @typedef {{id: string, agent: string, started: string, in_flight: number, waiting: number, requests_per_s: number,
 *   tokens_per_s: number, is_ready: boolean, workers_announced: number}} GatewaySection */

/** @typedef {{id: string, tasks: string[], workers: number, states: Record<string, number>, slots: number,
 *   in_flight: number, waiting: number, digests: string[], features: string[], context_length: number | null,
 *   tokens_per_s?: number | null, missing?: [number, number][]}} Model */

/** @typedef {"healthy" | "cooling" | "trial" | "lost" | "flagged"} WorkerState */

/** @typedef {{verdict: "unaudited" | "passed" | "suspected" | "flagged" | "unverifiable", tokens: number,
 *   auditors: number, log_e: number | null, reason: string | null, until: string | null,
 *   compared: number, alike: number}} Audit */

/** @typedef {{id: string, name?: string, agent: string, state: WorkerState, reason: string | null,
 *   cooldown_s?: number | null, audit?: Audit, models: {id: string, task: string, quantization: string, in_flight: number}[],
 *   incomplete?: string[], slots: number, in_flight: number, pressure: number, round_trip_s: number | null,
 *   measured: {requests: number, success_rate: number | null, first_token_mean_s: number | null,
 *   tokens_per_s: number | null}, reached?: "direct" | "punched" | "relayed", relays?: string[], since: string | null}} Worker */

/** @typedef {{workers: Worker[], total: number}} WorkersSection */

/** @typedef {"gateway" | "bootstrap" | "worker"} NodeKind */

/** @typedef {{nodes: {id: string, kind: NodeKind, name: string}[],
 *   links: {from: string, to: string, kind: "direct" | "punched" | "relayed" | "joined" | "reserved"}[]}} MeshSection */

/** @typedef {{requests: number, failures: number, tokens: number, first_token_p50_s: number | null,
 *   first_token_p95_s: number | null}} Point */

/** @typedef {{step_s: number, end: string, points: Point[]}} SeriesSection */

/** @typedef {{at: string, request_id: string, model: string, worker: string | null, outcome: string,
 *   done: "resumed" | "retried" | "hedged" | "going_on" | "given" | "gave_up", by: string | null, gap_s: number | null}} Failure */

/** @typedef {{id: string, name: string, answers: number, tokens: number}} Volunteer */

/** @typedef {{initial_peers: string[], swarm: string | null}} Way */

/** @typedef {{join?: Way, gateway?: GatewaySection, models?: Model[], workers?: WorkersSection, mesh?: MeshSection,
 *   series?: SeriesSection, failures?: {failures: Failure[]}, volunteers?: {volunteers: Volunteer[]}}} Sections */

/** @typedef {{worker: string, why: string, began_s: number, duration_s: number, first_token_s: number | null,
 *   outcome: string, tokens: number, is_hedge: boolean}} Attempt */

/** @typedef {{number: number, request_id: string, arrived: string, model: string, outcome: string, queued_s: number,
 *   duration_s: number, first_token_s: number | null, gap_s: number | null, prompt_tokens: number,
 *   cached_tokens: number, completion_tokens: number, attempts: Attempt[]}} RequestReport */

/** @typedef {{type: string, text?: string, image_url?: {url: string}}} Part */

/** @typedef {{role: "system" | "user" | "assistant", content: string | Part[]}} Message */

/** @typedef {{model: string, messages: Message[], stream: true, stream_options: {include_usage: true},
 *   temperature?: number, top_p?: number, max_tokens?: number, seed?: number}} ChatBody */

export {};
