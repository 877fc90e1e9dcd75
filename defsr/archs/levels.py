"""The levels of texture features that DEF works at, fine to coarse."""

# Level name -> its size over that of the matched level.
LEVEL_FACTORS = {'relu1_1': 4, 'relu2_1': 2, 'relu3_1': 1}
MATCH_LEVEL = 'relu3_1'
VGG_CHANNELS = {'relu1_1': 64, 'relu2_1': 128, 'relu3_1': 256}
