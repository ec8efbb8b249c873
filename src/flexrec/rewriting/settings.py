"""Settings of the query rewriting."""

from typing import Annotated, Literal, Self

from pydantic import Field, RootModel, ValidationInfo, field_validator, model_validator

from flexrec.config import Settings
from flexrec.prompting.templates import CONTROL_TOKENS, check_template
from flexrec.ranking.task import InstanceCounts
from flexrec.rl.settings import RlSettings


class RequestSettings(Settings):
    """What is asked for. Datasets of queries bring their own words; of others, likeness to liked items is asked for."""

    template: str = Field(
        default="{items} like {titles}", description="A request for what is like {titles}; {items} is their name."
    )
    titles: int = Field(default=2, ge=1, description="Items that a request names, all liked by one user")
    per_user: int = Field(default=2, ge=1, description="Most requests of a user")
    years: float = Field(default=5.0, gt=0, description="Items so far apart in time are not alike at all")
    relevant_gain: float = Field(default=0.5, gt=0, le=1, description="Likeness from which an item is relevant")
    limits: InstanceCounts = Field(
        default=InstanceCounts(train=400, validation=24, test=150), description="Most requests of each split"
    )

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        return check_template(template, name="template", allowed=("items", "titles"), required=("titles",))


class Bm25Settings(Settings):
    """Words by BM25 (Robertson and Zaragoza, 2009), with Lucene's idf."""

    kind: Literal["bm25"] = "bm25"
    k1: float = Field(default=1.2, ge=0, description="How soon more of the same word counts no more")
    b: float = Field(default=0.75, ge=0, le=1, description="How much long documents are held back")
    stopwords: Literal["en", "none"] = Field(default="en", description="Words that are left out")


class DenseSettings(Settings):
    """Cosine of embeddings, by the embedder of `retrieve`."""

    kind: Literal["dense"] = "dense"


RetrieverSettings = Annotated[Bm25Settings | DenseSettings, Field(discriminator="kind")]


class RetrieverEntry(RootModel[RetrieverSettings]):
    """The retriever alone, for what depends on nothing else."""


class RewritePromptSettings(Settings):
    """What the language model is shown, and the form of its answer."""

    system: str = Field(default="", description="System message; none where it is empty")
    user: str = Field(
        default=(
            "Rewrite a search so that a search engine finds more of what is meant. The engine looks for words in "
            "documents such as:\n{documents}\n\n"
            'Answer with the new search as <answer>{{"query": "..."}}</answer>.\n\n{examples}Search: {query}'
        ),
        description="User message: {query}, and {documents}, {examples} or {items} as wanted",
    )
    example: str = Field(
        default='Search: {query}\n<answer>{{"query": {rewrite}}}</answer>\n\n',
        description="One of {examples}: {query}, and {rewrite} in quotes",
    )
    reasoning: bool = Field(default=False, description="Whether the answer begins with <think>...</think>")
    opening: str = Field(
        default='<answer>{"query": "',
        description="How every answer begins; written for the model, so that a small one finds the form",
    )
    documents: int = Field(default=2, ge=0, description="Documents shown, drawn by the seed")
    examples: int = Field(
        default=3,
        ge=0,
        description="Rewrites shown: requests for random items, with their topics and years. None for datasets of "
        "queries, which have no request that can be made up",
    )
    max_query_chars: int = Field(default=160, ge=4, description="Of the search that is shown")
    max_document_chars: int = Field(default=90, ge=4, description="Of a document that is shown")
    max_answer_tokens: int = Field(default=32, ge=2, description="Of an answer, without its opening")
    special_tokens: tuple[str, ...] = Field(
        default=CONTROL_TOKENS,
        description="Control tokens without angle brackets that must not come out of a text",
    )

    @field_validator("user", "system")
    @classmethod
    def _message(cls, text: str, info: ValidationInfo) -> str:
        required = ("query",) if info.field_name == "user" else ()
        allowed = ("query", "documents", "examples", "items")
        return check_template(text, name="message", allowed=allowed, required=required)

    @field_validator("example")
    @classmethod
    def _example(cls, text: str) -> str:
        return check_template(text, name="example", allowed=("query", "rewrite"), required=("query", "rewrite"))

    @model_validator(mode="after")
    def _reasoning_comes_first(self) -> Self:
        if self.reasoning and "<answer>" in self.opening.partition("</think>")[0]:
            raise ValueError(
                "with reasoning an answer begins with <think>, so that none with this `opening` would have the right "
                'form; write opening: "<think>", and raise max_answer_tokens'
            )
        return self


class RewardSettings(Settings):
    """Reward of a rewrite: NDCG of what is retrieved, and its form (arXiv 2503.24289)."""

    cutoff: int = Field(default=100, ge=1, description="k of the NDCG@k that is the reward")
    right_form: float = Field(default=0.1, description="Added where the answer has the form that was asked for")
    wrong_form: float = Field(default=-2.0, description="The whole reward where it has not")


class FeedbackSettings(Settings):
    """Expansion by pseudo-relevance feedback, the baseline without a language model."""

    documents: int = Field(default=2, ge=1, description="First documents taken for relevant")
    terms: int = Field(default=8, ge=0, description="Words added to the query")


class RewritingSettings(Settings):
    """The whole task."""

    requests: RequestSettings = RequestSettings()
    retriever: RetrieverSettings = Bm25Settings()
    prompt: RewritePromptSettings = RewritePromptSettings()
    reward: RewardSettings = RewardSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    training: RlSettings = RlSettings()
    gallery: int = Field(default=6, ge=0, description="Rewrites shown in the report")
