"""A query on its way: its intent is found out, the model of that intent answers, the conversation remembers."""

import time
import uuid
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from athena.observability import tracing
from athena.orchestrator import decisions
from athena.orchestrator.asking import EngineFailedError, Step, ask
from athena.orchestrator.conversations import Conversations, Turn
from athena.orchestrator.intents import Intent, IntentTable, Mode
from athena.orchestrator.metrics import OrchestratorMetrics
from athena.router.services import RouterServices
from athena.router.types import Message, Sampling, Usage


class Query(BaseModel):
    """What is asked, and by whom; with `conversation_id` it goes on from what was said before under that id."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"query": "Why is the sky blue?", "mode": "owner"}}
    )

    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100_000)]
    mode: Mode = Mode.GUEST
    conversation_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None


class Answer(BaseModel):
    """The answer and how it came about. `classified` is false where the intent is only the default one."""

    answer: str
    intent: str
    classified: bool
    conversation_id: str
    steps: list[Step]
    total_ms: float


class Orchestrator:
    """Answers queries with the parts it is handed."""

    def __init__(
        self,
        table: IntentTable,
        services: RouterServices,
        conversations: Conversations,
        metrics: OrchestratorMetrics,
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._services = services
        self._conversations = conversations

    async def answer(self, query: Query) -> Answer:
        """Return the answer; raises EngineFailedError where no engine gives one."""
        began = time.monotonic()
        label, classifying = await self._classify(query)
        name = label or self._table.default_intent
        conversation = query.conversation_id or str(uuid.uuid4())
        key = f"{query.mode}:{conversation}"  # a guest who knows an id does not see what the owner said
        text, answering = await self._answer(query, self._table.intents[name], await self._conversations.turns(key))
        await self._conversations.add(key, Turn(query.query, text))
        if (span := tracing.current.get()) is not None:
            span.set({"athena.intent": name, "gen_ai.operation.name": "chat", "gen_ai.request.model": answering.model})
            tokens = [(step.prompt_tokens, step.completion_tokens) for step in (classifying, answering)]
            read, written = (sum(counts) for counts in zip(*tokens, strict=True))
            span.answered(answering.model, Usage(prompt_tokens=read, completion_tokens=written))
        return Answer(
            answer=text,
            intent=name,
            classified=label is not None,
            conversation_id=conversation,
            steps=[classifying, answering],
            total_ms=round((time.monotonic() - began) * 1000, 1),
        )

    async def _classify(self, query: Query) -> tuple[str | None, Step]:
        """Return the intent, None where it cannot be told. A classifier that is out of service costs no answer,
        unless the default intent's answer would come from the same model.
        """
        table = self._table
        model = self._model(table.classifier.model)
        messages = [
            Message(role="system", content=table.instructions(query.mode)),
            Message(role="user", content=query.query),
        ]
        sampling = Sampling(temperature=table.classifier.temperature, max_tokens=table.classifier.max_tokens)
        try:
            reply, step = await ask(
                self._services, self._metrics, "classify", model=model, messages=messages, sampling=sampling
            )
        except EngineFailedError as error:
            if model == self._model(table.intents[table.default_intent].model):
                raise
            return None, error.step
        return decisions.read_label(reply, table.modes[query.mode]), step

    async def _answer(self, query: Query, intent: Intent, turns: Sequence[Turn]) -> tuple[str, Step]:
        messages = [Message(role="system", content=intent.system.strip())] if intent.system else []
        for turn in turns:
            messages += [Message(role="user", content=turn.question), Message(role="assistant", content=turn.answer)]
        messages.append(Message(role="user", content=query.query))
        sampling = Sampling(temperature=intent.temperature, max_tokens=intent.max_tokens)
        model = self._model(intent.model)
        return await ask(self._services, self._metrics, "answer", model=model, messages=messages, sampling=sampling)

    def _model(self, named: str) -> str:
        return decisions.choose_model(named, self._table.default_model, self._services.configuration.snapshot)
