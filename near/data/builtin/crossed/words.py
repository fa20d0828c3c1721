"""The words of data=crossed's lists: short, of one or two tokens, and none of them in a wording or a skill's name."""

WORDS = tuple(
    """
    acid acorn actor alley amber anchor angel ankle apple april apron arch arm armor arrow ash atlas attic aunt autumn
    axe baby badge bag bakery ball bamboo banana bank barn barrel basin basket bat bath beach bead beam bean bear beard
    beast bed bee beef beetle bell belt bench berry bike bird biscuit blade blanket blood blossom boat bolt bone book
    boot border bottle bowl box brain branch brass bread breeze brick bride bridge broom brother brush bubble bucket
    bud bug bull bus bush butter button cabin cable cactus cage cake camel camera camp canal candle candy cannon canoe
    cap car carbon card carpet carrot cart castle cat cattle cave cedar cell chain chair chalk cheese cherry chess
    chest chicken child chin church circle city clay cliff cloak clock cloth cloud clover club coach coal coast coat
    cobra coffee coin copper coral cork corn cotton couch cow crab cradle crane crayon cream creek cricket crow crown
    crystal cup curtain daisy dance dawn deck deer desert desk dew diamond dice dinner dish dock doctor dog doll dolphin
    donkey door dove dragon drawer dream dress drum duck dust eagle ear earth echo eel egg elbow elm engine eye fabric
    face factory falcon family fan farm feast feather fence fern ferry field fig finger fire fish flag flame flute fly
    fog foot forest fork fox frame frog frost fruit garden garlic gate ghost giant ginger glass globe glove goat gold
    goose grape grass gravel guitar gum hair hall hammer hand harbor harp hat hawk hay head heart hedge helmet hen herb
    hill hip honey hood hook horn horse hotel house ice igloo ink iris iron island ivory ivy jacket jaguar jar jaw jazz
    jeans jelly jewel juice jungle kettle key kid king kite kitten knee knife knot ladder lady lake lamb lamp lark lawn
    leaf leather lemon lens letter library light lily lime linen lion lip lizard lobster lock lotus lunch magnet maple
    marble market mask meadow meal meat medal melon metal milk mill mint mirror monk monkey moon moss moth motor mouse
    mouth mud mule museum music nail neck needle nest net night north nose novel nurse nut oak oar oasis ocean office
    oil olive onion opera orange orchid otter oven owl ox oyster paddle page paint palace palm panda paper parade park
    parrot path peach peacock pear pearl pebble pen pencil pepper piano picnic pie pig pigeon pillow pilot pin pine
    pipe pizza plane planet plant plate plum pocket poem pond pony pool porch potato prince puppy purse queen quilt
    rabbit radio rail rain raven razor ribbon rice ring river road robin robot rock roof room root rope rose ruby rug
    sail salad salt sand sauce saw scarf school sea seal seed shark sheep shelf shell ship shirt shoe shop silk silver
    sister skirt sky sled smoke snail snake snow soap sock sofa soil song soup spear spider spoon spring squid stage
    stamp star steam steel stone stool storm stove straw street sugar suit summer sun swan sweater sword table tail
    tank tea teacher temple tent throne thumb tiger tile toast tomato tongue tooth torch towel tower town toy train
    tray tree truck trumpet tulip tunnel turkey turtle uncle valley van vase velvet village vine violin wagon wall
    walnut wasp water wax wheat wheel whale window wine winter wolf wood wool yard yarn zebra
    """.split()
)
