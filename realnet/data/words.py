"""What the names of folders mean: training, test, good, defect, masks; in many spellings and languages."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Split = Literal["train", "test"]


def same_name(text: str) -> str:
    """Return one text for all spellings of a name: composed (NFC) or not (NFD), in upper or lower case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _plain(text: str) -> str:
    """Return a name without case and accents; Japanese, Korean and Cyrillic letters stay letters."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(c for c in parts if unicodedata.category(c) not in {"Mn", "Mc"}))


def _words(text: str) -> frozenset[str]:
    return frozenset(map(_plain, text.split()))


TRAIN = _words(
    "train training trn traindata trainset trainingset trainingsdaten entrainement apprentissage entrenamiento "
    "addestramento treinamento treino trening "
    "обучение 训练 训练集 訓練 学習 학습 훈련"
)
TEST = _words(
    "test testing tests tst testset testdata val valid validation validate eval evaluation dev holdout "
    "prufung pruefung testdaten validierung prueba pruebas ensayo validacion evaluacion essai prova convalida teste "
    "validacao avaliacao тест 测试 测试集 測試 验证 验证集 テスト 検証 테스트 시험 검증"
)
TRUTH = _words(
    "groundtruth groundtruths gt gts truth mask masks masking maskimage maskimages label labels labelmap annotation "
    "annotations annot annots seg segs segmentation segmentations segmask segmasks matte "
    "maske masken masque masques mascara mascaras maschera maschere masker maska maski "
    "маска маски разметка 掩码 掩膜 掩模 遮罩 标注 標註 标签 マスク 마스크"
)
GOOD = _words(
    "good goods goodpart goodparts ok oks okay okey okpart okparts normal normals nominal pass passed passing healthy "
    "fine perfect flawless faultless intact clean conforming conform compliant accepted accept acceptable undamaged "
    "defectfree nodefect nodefects nondefect nondefective undefective withoutdefect withoutdefects faultfree nofault "
    "anomalyfree noanomaly nonanomalous notdefective notanomalous inlier inliers free "
    "gut gute guten gutteil gutteile inordnung io fehlerfrei einwandfrei "
    "bon bons bonne bonnes conforme conformes sansdefaut sain bueno buenos buena buenas correcto correctos sindefecto "
    "goedgekeurd goedgekeurde golden sindefectos "
    "buono buoni buona senzadifetti bom bons boa boas perfeito semdefeito goed goede dobry dobre dobra dobri "
    "god goda godkand bra hyva ehja iyi saglam hatasiz bun buni bune jo tot dat bagus baik "
    "норма норм хорошо хорошие хороший хорошая годен годные годный исправные добре καλο καλα "
    "良品 正常 正常品 合格 合格品 好 好品 良好 良 无缺陷 無缺陷 양품 정상 합격 سليم جيد अच्छा ดี תקין תקינים"
)
BAD = _words(
    "bad def ng ngs ngpart nogood notgood nok notok nonok notpass nopass ko fail fails failed failure failures defect "
    "defects defective defectives defected anomaly anomalies anomalous abnormal abnormals notnormal nonnormal fault "
    "faults faulty broken damaged damage damages flaw flaws flawed scrap reject rejected rejects nonconforming "
    "nonconform noncompliant unacceptable outlier outliers unhealthy imperfect "
    "fehler fehlerhaft defekt defekte defekten kaputt schlecht schlechtteil schlechtteile ausschuss nio nichtinordnung "
    "nichtok mauvais mauvaise defaut defauts defectueux nonconforme nonconformes rebut malo malos mala defecto "
    "defectos defectuoso rechazado difetto difetti difettoso difettosi scarto scarti ruim defeito defeitos "
    "afgekeurd afgekeurde condefecto condefectos sortedout rework reworked aussortiert nacharbeit "
    "slecht defecte wada wady wadliwe wadliwy zly zle vada vadny vadne dalig fel viallinen kotu hatali kusurlu rusak "
    "cacat loi брак дефект дефекты дефектные плохо плохие плохой негодные "
    "不良 不良品 不良好 不合格 次品 异常 異常 異常品 缺陷 欠陥 "
    "불량 불량품 이상 결함 불합격 खराब פגום פגומים פסול"
)
NEUTRAL = _words(
    "image images img imgs imgset data dataset datasets pic pics picture pictures photo photos jpg jpeg jpegs png pngs "
    "bmp tif tiff raw rgb sample samples frame frames file files input inputs original originals jpegimages "
    "bild bilder fotos foto immagini imagenes"
)
SPARE = _words(
    "unlabelled unlabeled unknown unsorted unchecked undecided unsure unbekannt unsortiert backup backups "
    "copy copies kopie archive archives archiv old trash papierkorb"
)
"""What names of folders call images that are not sorted, or kept twice."""
OPPOSED = _words("negative positive neg pos n p true false yes no")
"""Names that stand for good and bad, in an order that differs from folder to folder."""
DERIVED = _words("overlay overlays heatmap heatmaps thumbnail thumbnails thumb thumbs preview previews visualization")
KINDS = _words(
    "crack cracks scratch scratches dent dents hole holes stain stains rust spot spots bent cut cuts chip chips burr "
    "burrs blowhole contamination discoloration deformation missing pinhole tear wear bubble bubbles kratzer riss "
    "risse rayure rayures fissure grieta arañazo graffio crepa risco trinca krass 划痕 裂纹 划伤 污渍 キズ 傷 스크래치"
)
"""Kinds of defects that folders are often named for."""
DENIALS = _words("no not non none without free ohne kein keine sans sin senza sem zonder bez без 无 無 なし")
LOTS = _words(
    "lot lots batch batches cam cams camera kamera view views shot shots day shift line session roll station charge "
    "serie series part parts board panel wafer sheet set side los tag schicht front back top bottom left right "
    "teil teile stuck piece pieces pcs item items product products produkt produkte piezas pezzi"
)


@dataclass(frozen=True, slots=True)
class FolderName:
    """What the name of one folder says.

    Attributes:
        split: the half of the dataset that it names; None if it names neither.
        is_truth: whether it names masks.
        quality: whether it names good or bad products; None if neither.
        is_derived: whether it names pictures made of others, such as heatmaps.
        is_spare: whether it names images that are not sorted or kept twice.
        is_lot: whether it only numbers its images' origin, such as ``lot 3``, ``cam2`` or ``2024-05-01``.
        is_neutral: whether it says nothing, such as ``images``.
        text: what else it says, such as a kind of defect, without accents; "" if nothing.
    """

    split: Split | None = None
    is_truth: bool = False
    quality: Literal["good", "bad"] | None = None
    is_derived: bool = False
    is_spare: bool = False
    is_lot: bool = False
    is_neutral: bool = False
    text: str = ""

    @property
    def has_role(self) -> bool:
        """Tell whether it says what its images are for."""
        return bool(self.split or self.is_truth or self.quality)


@lru_cache(maxsize=8192)
def read_name(name: str) -> FolderName:
    """Read the name of a folder: ``Train``, ``test_good``, ``Ground_Truth``, ``masks of bent``, ``OK 2``, ``良品``."""
    tokens = tokens_of(name)
    rest = [token for token in tokens if token not in TRUTH | {"ground", "of"}]
    is_truth = bool(TRUTH.intersection(tokens))
    told = [token.rstrip("0123456789") for token in rest if token not in NEUTRAL]
    told = [token for token in told if token]
    quality = _quality(told)
    halves = [_half(token) for token in told if _half(token)]
    others = [token for token in told if not _half(token)]
    if halves and quality is None and (not others or _quality(others)):
        return FolderName(halves[0], is_truth, _quality(others))
    if quality is None and (lotless := [token for token in told if token not in LOTS]) != told:
        quality = _quality(lotless)
    is_numbered = any(token[-1].isdigit() for token in rest)
    is_lot = is_numbered and quality is None and all(len(token) == 1 or token in LOTS for token in told)
    return FolderName(
        is_truth=is_truth,
        quality=quality,
        is_derived=bool(DERIVED.intersection(told)),
        is_spare=bool(SPARE.intersection(told)),
        is_lot=is_lot,
        is_neutral=not told and not is_numbered,
        text="" if is_lot or not told else " ".join(rest),
    )


def tokens_of(name: str) -> list[str]:
    """Return the words of a name, without case and accents: of ``GroundTruth_01``, ``ground``, ``truth`` and ``01``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFC", name))
    return [token for token in re.split(r"[\W_]+", _plain(spaced)) if token]


def names_defect(stem: str) -> bool:
    """Tell whether a name of a file or a folder of good products speaks of defects, as ``ng_012`` and ``crack3`` do."""
    told = [token.rstrip("0123456789") for token in tokens_of(stem)]
    told = [token for token in told if token]
    return _quality(told) != "good" and bool((BAD | KINDS).intersection(told) or _quality(told) == "bad")


def names_good(stem: str) -> bool:
    """Tell whether a folder's name has a word for good among others, or denies a defect: ``ok_x``, ``no scratch``."""
    tokens = {token.rstrip("0123456789") for token in tokens_of(stem)}
    if tokens & (BAD | KINDS):
        return bool(tokens & DENIALS)
    return bool(tokens & GOOD)


def names_test(stem: str) -> bool:
    """Tell whether a name of a file speaks of tests, as ``test_012`` and ``bolt-val-3`` do."""
    return any(_half(token.rstrip("0123456789")) == "test" for token in tokens_of(stem))


def names_derived(stem: str) -> bool:
    """Tell whether a file's name ends as those of pictures made of others do, such as ``012_overlay``."""
    tokens = tokens_of(stem)
    return len(tokens) > 1 and tokens[-1] in DERIVED


def may_be_good_or_bad(name: str) -> bool:
    """Tell whether a folder's name may stand for good or bad products: ``0``, ``class1``, ``positive``, ``P``."""
    told = [token for token in tokens_of(name) if token not in NEUTRAL]
    return bool(told) and all(token in OPPOSED or re.fullmatch(r"(class|label|y)?[01]?", token) for token in told)


def _half(token: str) -> Split | None:
    return "train" if token in TRAIN else "test" if token in TEST else None


def _quality(tokens: list[str]) -> Literal["good", "bad"] | None:
    joined = "".join(tokens)
    return "bad" if joined in BAD else "good" if joined in GOOD else None
