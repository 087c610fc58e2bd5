"""Jobs as the API takes and shows them: OpenAI's FineTuningJob, and what a time series needs beyond it."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.schemas import Columns, Name, RequestModel, ResponseModel

MAX_METADATA_PAIRS = 16


class Budget(RequestModel):
    seconds: float | None = Field(default=None, gt=0, description="Cap on training time.")


class GateSpec(RequestModel):
    """How the verdict is reached. `null` in its place gives up the test block: nothing is judged."""

    metric: Literal["mase", "rmsse", "mae", "mse"] | None = Field(
        default=None, description="Null: MASE, or RMSSE where more than half of the values are zero."
    )
    min_gain: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Share of error that the interval of the gain must clear."
    )


class JobCreate(RequestModel):
    """A fine-tuning job. Only the file and `prediction_length` are needed."""

    training_file: Name | None = Field(default=None, description="Id of an uploaded file; or send the file itself.")
    prediction_length: int = Field(
        ge=1, description="Steps ahead; of points that are scored at once; or of the longest gap, by task."
    )
    model: Name = Field(default="temper-tiny", description="Backbone to start from.")
    method: Name | dict[str, Any] = Field(default="sff", description='A name, or {"type": name, …options}.')
    task: Name = Field(default="forecast", description="forecast, anomaly_detection or imputation.")
    scoring: Name | None = Field(
        default=None,
        description="Of anomaly_detection: forecast, every_patch or reconstruction (GET /v1/backbones says which a "
        "backbone has); default: its own.",
    )
    context_length: int | None = Field(default=None, ge=1, description="Steps of history; default: what fits.")
    hyperparameters: dict[str, Any] = Field(default_factory=dict, description='Values, or "auto".')
    budget: Budget | None = None
    gate: GateSpec | None = Field(default_factory=GateSpec)
    seed: int = Field(default=0, ge=0)
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    register_as: Name | None = Field(default=None, description="Add a version to this fine-tuned model.")
    accept_license: bool = Field(
        default=False, description="Needed for backbones whose weights are not for commercial use (GET /v1/backbones)."
    )
    refit: bool = Field(
        default=False, description="Also train the winning recipe on all history: a second version, not judged."
    )
    initialisation: Name | dict[str, Any] = Field(
        default="pretrained",
        description='Weights to start from: "pretrained", or for tests and research "random" or '
        '{"type": "random", "seed": …, "size": "published" | "tiny"}. Random weights are never served untrained.',
    )
    landscape: bool | dict[str, Any] = Field(
        default=False,
        description="Measure how sharp the loss is at the pretrained and the tuned weights; "
        'true, or {"surface": true, "windows": …, "probes": …}.',
    )
    metadata: dict[
        Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]
    ] = Field(default_factory=dict, max_length=MAX_METADATA_PAIRS)
    dry_run: bool = Field(default=False, description="Answer the estimate and create nothing.")

    id_column: Name | None = None
    timestamp_column: Name | Columns | None = None
    target_columns: Columns | None = None
    past_covariate_columns: Columns | None = None
    future_covariate_columns: Columns | None = None
    static_columns: Columns | None = None
    freq: Name | None = None
    timezone: Name | None = None
    timestamp_format: Name | None = None
    duplicates: Name | None = None


class Estimate(ResponseModel):
    """What a job is expected to cost before it ran; `timing` says what it did cost."""

    seconds: float | None
    """From start to end of the run, if no schedule stops early."""
    memory_bytes: int
    """Most that the process holds; measured on a GPU, most of the GPU's memory."""
    windows: int
    """Training windows of one epoch, after the cap."""
    steps: int
    """Optimizer steps at most, those of a search included."""
    trainable_parameters: int | None
    basis: Literal["table", "measured"]
    """Of the catalogue, or from a few real steps on a worker."""
    device: str | None = None
    """Of the worker that measured: cpu or cuda."""
    note: str | None = None
    """Why a dry run was not measured."""


class JobError(ResponseModel):
    code: str
    message: str
    param: str | None


class Progress(ResponseModel):
    phase: str
    step: int
    total_steps: int
    fraction: float
    eta_seconds: float | None
    train_loss: float | None
    validation_loss: float | None


class JobObject(ResponseModel):
    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    status: str
    pause_requested: bool
    attempt: int
    """Runs so far since it was last queued by a person; a lost worker's job is run again."""
    organization_id: str
    model: str
    fine_tuned_model: str | None
    model_version: int | None
    digest: str | None
    training_file: str
    validation_file: str | None
    task: str
    scoring: str | None
    """How points are scored; null of other tasks."""
    prediction_length: int
    context_length: int
    freq: str
    method: dict[str, Any]
    """`type` as asked, `chosen` once it is known, and every option of it."""
    hyperparameters: dict[str, Any]
    """Every resolved value; what a search chose, once it has."""
    budget: dict[str, Any] | None
    seed: int
    initialisation: str | dict[str, Any]
    """ "pretrained", or how the random weights were drawn that it starts from."""
    accept_license: bool
    """Whether the request accepted a licence that forbids commercial use."""
    suffix: str | None
    register_as: str | None
    refit: bool
    refit_version: int | None
    """The version trained on all history; nobody judged it and no alias points there by itself."""
    metadata: dict[str, Any]
    estimate: Estimate | None
    progress: Progress | None
    candidates: list[dict[str, Any]] | None
    """Validation and test errors of the tuned model, zero-shot and the rivals."""
    verdict: dict[str, Any] | None
    """Who won on the test block, and why, in a sentence."""
    gate: dict[str, Any] | None
    calibration: dict[str, Any] | None
    landscape: dict[str, Any] | None
    data_report: dict[str, Any] | None
    search: list[dict[str, Any]] | None
    """Every trial there was: method, options, learning_rate, rung, steps, validation, stopped, seconds."""
    timing: dict[str, Any] | None
    """Seconds of each part of the run that finished, `seconds` in all, and `peak_memory_bytes`."""
    num_trainable_parameters: int | None
    manifest: dict[str, Any] | None
    trained_tokens: int | None
    result_files: list[str]
    """Ids for `/v1/files/{id}/content`: step metrics, plots; gone with the model."""
    integrations: list[Any] | None
    error: JobError | None


class JobEstimate(ResponseModel):
    """The answer to `dry_run`: what the job would be and cost. Nothing was created."""

    object: Literal["fine_tuning.job.estimate"]
    model: str
    task: str
    scoring: str | None
    prediction_length: int
    context_length: int
    freq: str
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    seed: int
    initialisation: str | dict[str, Any]
    estimate: Estimate


class JobEventObject(ResponseModel):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics", "status"]
    message: str
    data: dict[str, Any] | None


class CheckpointObject(ResponseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str | None = Field(
        description="Name for `/v1/forecast`, also while the job runs; null once the weights are no longer kept."
    )
    digest: str
    judged: Literal[False] = Field(description="No test block was read: only a job's end registers a judged version.")
    metrics: dict[str, Any]
    step_number: int
